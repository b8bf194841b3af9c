# Two images: `cuda` for what runs networks on GPUs, `cpu`, much smaller, for all else: docs/how-to/image.md.
# The base needs sh and Python 3.11 or newer with its venv module; torch's wheels bring CUDA themselves.
ARG BASE=python:3.11-slim

FROM ${BASE} AS builder
# pip's own settings: another index, or none at all beside wheels/.
ARG PIP_EXTRA_INDEX_URL
ARG PIP_NO_INDEX
WORKDIR /build
# pip has an environment of its own, so that the one that is shipped has none.
RUN python3 -m venv /opt/pip && python3 -m venv --without-pip /opt/venv
# The pattern is for builders that refuse a folder that isn't there.
COPY constraints.txt wheel[s] ./
# The arguments again, because those of a stage end with it.
ENV PATH=/opt/pip/bin:$PATH PIP_CONSTRAINT=/build/constraints.txt PIP_FIND_LINKS=/build PIP_NO_CACHE_DIR=1 \
    PIP_EXTRA_INDEX_URL=$PIP_EXTRA_INDEX_URL PIP_NO_INDEX=$PIP_NO_INDEX

# A stage of its own: what else changes in pyproject.toml installs nothing again.
FROM builder AS requirements
COPY pyproject.toml ./
RUN python3 -c 'import pathlib, tomllib; \
project = tomllib.load(open("pyproject.toml", "rb"))["project"]; \
write = lambda name, *extras: pathlib.Path(name).write_text("\n".join( \
    sum((project["optional-dependencies"][extra] for extra in extras), project["dependencies"]))); \
write("cpu.txt", "heic", "pipelines", "s3", "serving", "signing", "student"); \
write("cuda.txt", "heic", "pipelines", "s3", "serving", "signing", "student", "tuning")'

# Schedules are searched in the other image only: this one has no Ray.
FROM builder AS dependencies-cpu
COPY --from=requirements /build/cpu.txt ./
# The index of PyTorch's CPU builds; not needed where wheels/ has one.
ARG CPU_INDEX
RUN pip --python /opt/venv install --requirement cpu.txt ${CPU_INDEX:+--extra-index-url "$CPU_INDEX"} \
    && find /opt/venv -type d \( -name tests -o -path '*/torch/test' -o -path '*/torch/include' \) -prune -exec rm -rf {} +

FROM builder AS dependencies-cuda
COPY --from=requirements /build/cuda.txt ./
RUN pip --python /opt/venv install --requirement cuda.txt \
    && find /opt/venv -type d \( -name tests -o -path '*/torch/test' -o -path '*/ray/jars' \) -prune -exec rm -rf {} +

# A layer of its own: a new version of the code is a few hundred kilobytes to pull.
FROM builder AS package
COPY pyproject.toml README.md LICENSE ./
COPY components components
COPY pipelines pipelines
COPY src src
RUN pip --python /opt/venv install --no-deps --target /app .

FROM ${BASE} AS runtime
# Only /tmp need be writable. USER names whoever runs it, for libraries that ask and find nobody of that number.
# A container's own folder is no place for MLflow's store: name a server, or nothing is tracked.
ENV PATH=/app/bin:/opt/venv/bin:$PATH \
    PYTHONPATH=/app \
    PYTHONDONTWRITEBYTECODE=1 \
    PYTHONUNBUFFERED=1 \
    HOME=/tmp \
    USER=backdrop \
    BACKDROP_TRACKING=off
WORKDIR /app
USER 1000:1000
CMD ["backdrop", "--help"]
LABEL org.opencontainers.image.title="Backdrop" \
      org.opencontainers.image.licenses="Apache-2.0"

FROM runtime AS cpu
COPY --from=dependencies-cpu /opt/venv /opt/venv
COPY --from=package /app /app
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"

FROM runtime AS cuda
COPY --from=dependencies-cuda /opt/venv /opt/venv
COPY --from=package /app /app
# What NVIDIA's runtime reads.
ENV NVIDIA_VISIBLE_DEVICES=all \
    NVIDIA_DRIVER_CAPABILITIES=compute,utility
ARG VERSION
ARG REVISION
ARG SOURCE
LABEL org.opencontainers.image.version="${VERSION}" \
      org.opencontainers.image.revision="${REVISION}" \
      org.opencontainers.image.source="${SOURCE}"
