# One image for every component, Job and server; docs/how-to/image.md says how to build and run it.
# The base needs sh and Python 3.11 or newer with its venv module; torch's wheels bring CUDA themselves.
ARG BASE=python:3.11-slim

FROM ${BASE} AS dependencies
# pip's own settings: another index for torch's build, or none at all beside wheels/.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
WORKDIR /build
# pip has an environment of its own, so that the one that is shipped has none.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
# The pattern is for builders that refuse a folder that isn't there.
COPY pyproject.toml constraints.txt wheel[s] ./
RUN python3 -c 'import tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
extras = (project["optional-dependencies"][extra] for extra in ("heic", "pipelines", "s3", "signing", "tuning")); \
print(*sum(extras, project["dependencies"]), sep="\n")' > requirements.txt \
    && /opt/pip/bin/pip --python /opt/venv --no-cache-dir install --find-links . \
        --constraint constraints.txt --requirement requirements.txt \
    && find /opt/venv -type d \( -name tests -o -path '*/torch/test' -o -path '*/ray/jars' \) -prune -exec rm -rf {} +

# A layer of its own: a new version of the code is a few hundred kilobytes to pull.
FROM dependencies AS package
COPY README.md LICENSE ./
COPY components components
COPY pipelines pipelines
COPY src src
RUN /opt/pip/bin/pip --python /opt/venv --no-cache-dir install --find-links . --no-deps --target /app .

FROM ${BASE}
COPY --from=dependencies /opt/venv /opt/venv
COPY --from=package /app /app
# Only /tmp need be writable. USER names whoever runs it, for libraries that ask and find nobody of that number.
# A container's own folder is no place for MLflow's store: name a server, or nothing is tracked.
# The NVIDIA runtime reads the last two.
ENV PATH=/app/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=backdrop \
    BACKDROP_TRACKING=off \
    NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
WORKDIR /app
USER 1000:1000
CMD ["backdrop", "--help"]
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.title="Backdrop" \
      org.opencontainers.image.licenses="Apache-2.0" \
      org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
