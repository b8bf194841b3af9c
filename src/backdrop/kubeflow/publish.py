"""Uploads a package to a Kubeflow endpoint, once per version, and starts runs of it."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from kfp_server_api import V2beta1Pipeline

from backdrop.common.errors import EndpointError
from backdrop.config.explain import suggest
from backdrop.kubeflow.client import Endpoint, get_or_create, silent
from backdrop.pipelines.package import Package

DEFAULT_EXPERIMENT = "Default"  # KFP's own


@dataclass(frozen=True)
class Published:
    """A package's version on an endpoint; `new` says whether it was uploaded just now."""

    name: str
    version: str
    pipeline_id: str
    version_id: str
    new: bool


def publish(endpoint: Endpoint, package: Package) -> Published:
    """Creates the pipeline and this version of it, unless they exist; a version's name contains its graph's digest.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses the request.
    """
    client, namespace = endpoint.client, {"namespace": endpoint.namespace}
    with endpoint.errors(), silent(), TemporaryDirectory() as folder:
        # kfp's own upload of a pipeline would create a second version, named after the pipeline.
        pipeline, _ = get_or_create(
            lambda: endpoint.named(client.list_pipelines, "pipelines", package.name, **namespace),
            lambda: client.pipelines.pipeline_service_create_pipeline(_pipeline(endpoint, package)),
        )
        path, parent = Path(folder, "package.yaml"), {"pipeline_id": pipeline.pipeline_id}
        path.write_bytes(package.dump())
        version, new = get_or_create(
            lambda: endpoint.named(client.list_pipeline_versions, "pipeline_versions", package.version, **parent),
            lambda: client.upload_pipeline_version(str(path), package.version, **parent),
        )
    return Published(package.name, package.version, pipeline.pipeline_id, version.pipeline_version_id, new)


def submit(
    endpoint: Endpoint, published: Published, experiment_id: str, values: Mapping[str, Any], service_account: str = ""
) -> str:
    """Starts a run of this version.

    Returns:
        The run's id.

    Raises:
        EndpointError: if the endpoint doesn't answer or refuses the request.
    """
    with endpoint.errors(), silent():
        run = endpoint.client.run_pipeline(
            experiment_id,
            f"{published.name} {time.strftime('%Y-%m-%d %H:%M:%S')}",
            params=dict(values),
            pipeline_id=published.pipeline_id,
            version_id=published.version_id,
            service_account=service_account or None,
        )
    return str(run.run_id)


def experiment_id(endpoint: Endpoint, name: str = "") -> str:
    """The id of an experiment; with no name, of KFP's default experiment, which is created if it doesn't exist.

    Raises:
        EndpointError: if there is no experiment of that name, or the endpoint doesn't answer.
    """
    client, namespace = endpoint.client, {"namespace": endpoint.namespace}
    with endpoint.errors(), silent():
        if not name:
            default, _ = get_or_create(
                lambda: endpoint.named(client.list_experiments, "experiments", DEFAULT_EXPERIMENT, **namespace),
                lambda: client.create_experiment(DEFAULT_EXPERIMENT, **namespace),
            )
            return str(default.experiment_id)
        known = {
            entry.display_name: entry for entry in endpoint.every(client.list_experiments, "experiments", **namespace)
        }
    if name not in known:
        remedy = f"{suggest(name, known)} Or create it: kfp --endpoint {endpoint.host} experiment create {name}"
        raise EndpointError(f"Kubeflow at {endpoint.host} has no experiment {name}", remedy)
    return str(known[name].experiment_id)


def _pipeline(endpoint: Endpoint, package: Package) -> V2beta1Pipeline:
    about = package.documents[0]["pipelineInfo"]["description"].partition(" (version")[0]
    names = {"name": package.name, "display_name": package.name}
    return V2beta1Pipeline(**names, description=about, namespace=endpoint.namespace)
