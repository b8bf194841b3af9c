"""Checks what a run needs before it starts: Kubeflow, MLflow, the bucket, the dataset, nodes and quotas, KubeRay."""

import os
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from backdrop.common import s3, storage
from backdrop.common.errors import BackdropError, DataError, StorageError, TrackingError
from backdrop.common.kubernetes_client import own_namespace
from backdrop.common.progress import working
from backdrop.common.words import count
from backdrop.components.image import IMAGE
from backdrop.config import Ensemble
from backdrop.config.cluster import LIGHT_CPU, LIGHT_CPU_LIMIT, LIGHT_MEMORY, Cluster
from backdrop.config.network import MIRROR
from backdrop.config.records import parse
from backdrop.data.folds.plan import check_rules
from backdrop.data.listing import IMAGE_SUFFIXES
from backdrop.kubeflow.client import NAMESPACE, connect
from backdrop.kubeflow.node_check import check_drivers, check_nodes, check_rayjobs, check_retries
from backdrop.kubeflow.quota_check import Pod, check_quotas
from backdrop.pipelines.parameters import tolerations_of
from backdrop.tracking import URI, is_server, tracking_uri
from backdrop.tracking.client import connect as connect_mlflow
from backdrop.tracking.client import server_errors

Check = Callable[[], str]


def preflight(
    values: Mapping[str, Any], host: str, namespace: str, ray: bool, ensemble: Ensemble | None = None
) -> Iterator[tuple[str, bool, str]]:
    """Runs the checks one after another.

    Args:
        values: the run's parameters.
        host: Kubeflow's address; from the environment if empty.
        namespace: Kubeflow's; from the environment or the pod if empty.
        ray: whether the run needs KubeRay.
        ensemble: what the run trains; None leaves out what only its recipes and fold schemes need.

    Yields:
        The name of each check, whether it passed, and a sentence about it.
    """
    for name, check in _checks(values, host, namespace, ray, ensemble):
        try:
            with working(f"checking {name}"):
                message = check()
        except BackdropError as error:
            yield name, False, str(error)
        else:
            yield name, True, message


def _checks(
    values: Mapping[str, Any], host: str, namespace: str, ray: bool, ensemble: Ensemble | None
) -> Iterator[tuple[str, Check]]:
    yield "kubeflow", lambda: check_kubeflow(host, namespace)
    yield "mlflow", check_mlflow
    yield "data", lambda: check_data(values["data"])
    if storage.is_remote(values["work"]):  # a local folder is the pod's own
        yield "work", lambda: check_work(values["work"])
    if ensemble:
        yield "split", lambda: check_split(values["data"], ensemble, values["objects"])
        yield "weights", lambda: check_weights(ensemble)
    yield "nodes", lambda: _check_pool(values)
    yield "cpus", lambda: _check_cpu_nodes(values)
    yield "drivers", check_drivers
    yield "quotas", lambda: check_quotas(namespace or os.environ.get(NAMESPACE) or own_namespace(), pods(values, ray))
    yield "retries", check_retries
    if ray:
        yield "ray", check_rayjobs


def check_kubeflow(host: str = "", namespace: str = "") -> str:
    """Checks that Kubeflow answers, is new enough, and lets us list its pipelines.

    Raises:
        EndpointError: if not.
    """
    endpoint = connect(host, namespace)
    with endpoint.errors():  # the health check needs no permission; this does
        endpoint.client.list_pipelines(page_size=1, namespace=endpoint.namespace)
    version = endpoint.version or "(unknown version)"
    scope = f", namespace {endpoint.namespace}" if endpoint.namespace else ""
    return f"Kubeflow Pipelines {version} at {endpoint.host}{scope}"


def check_mlflow() -> str:
    """Checks that MLflow answers a query; `/health` is green even if MLflow refuses the host name that pods use.

    Raises:
        TrackingError: if not.
    """
    if not is_server(tracking_uri()):
        raise TrackingError(f"{URI} isn't a server's address", "Set it to the address that pods use")
    client = connect_mlflow(wait=False)
    with server_errors("MLflow can't list its experiments", "Check the server"):
        client.search_experiments(max_results=1)
    return "MLflow answers"


def check_data(data: str) -> str:
    """Checks that there are photographs, and that the first can be read.

    Raises:
        DataError: if there are none.
        StorageError: if they can't be listed or read.
    """
    folder = f"{data.rstrip('/')}/train"
    if not storage.is_remote(data):
        storage.local_folder(data)
    names = storage.list_files(folder)
    if not names:
        raise DataError(f"{data} has no photographs in train/", "Give the folder or prefix that contains train/")
    storage.read_bytes(f"{folder}/{names[0]}")
    return f"{count(len(names), 'file')} in {folder}"


def check_weights(ensemble: Ensemble) -> str:
    """Checks that the pretrained weights of an ensemble's encoders are where its members will read them.

    Raises:
        StorageError: if a file isn't there, or its server doesn't answer.
    """
    encoders = [recipe.pretrained for part in ensemble.parts() if (recipe := part.resolve()).pretrained]
    sources = dict.fromkeys(encoder.source for encoder in encoders if encoder)
    for source in sources:
        if not storage.exists(source):
            raise StorageError(f"{source} doesn't exist", f"Copy the file there, or fix {MIRROR}")
    return f"{count(len(sources), 'file')} of pretrained weights can be read" if sources else "no encoder is pretrained"


def check_split(data: str, ensemble: Ensemble, objects: int = 0) -> str:
    """Checks that the objects can be split by each of the ensemble's fold schemes, as far as names say.

    Args:
        data: the dataset.
        ensemble: with the schemes.
        objects: only this number of objects, the first by name; 0 for all.

    Raises:
        PlanError: if they can't.
        StorageError: if the photographs can't be listed.
    """
    paths = map(Path, storage.list_files(f"{data.rstrip('/')}/train"))
    stems = [path.stem for path in paths if path.suffix.lower() in IMAGE_SUFFIXES]
    names = {*sorted({stem.rpartition("_")[0] for stem in stems})[: objects or None]}
    check_rules([stem for stem in stems if stem.rpartition("_")[0] in names], ensemble.plans())
    return f"{count(len(names), 'object')} can be split by the schemes of ensemble {ensemble.name}"


def check_work(work: str) -> str:
    """Checks that an object can be written, read and deleted there.

    Raises:
        StorageError: if not.
    """
    address, content = f"{work.rstrip('/')}/preflight-{uuid.uuid4().hex}", b"written by the preflight"
    storage.write_bytes(address, content)
    try:
        if storage.read_bytes(address) != content:
            raise StorageError(f"{address} isn't what was written there", "Check the S3 server")
    finally:
        s3.delete(address)
    return f"{work} can be written, read and deleted"


def _check_pool(values: Mapping[str, Any]) -> str:
    needs = {values["accelerator"]: values["gpus"], "cpu": values["cpu"], "memory": values["memory"]}
    tolerations = tolerations_of("The parameters: tolerations", values["tolerations"])
    return check_nodes(values["node_selector"], needs, tolerations)


def _check_cpu_nodes(values: Mapping[str, Any]) -> str:
    needs = {"cpu": LIGHT_CPU, "memory": LIGHT_MEMORY}
    tolerations = tolerations_of("The parameters: cpu_tolerations", values["cpu_tolerations"])
    return check_nodes(values["cpu_node_selector"], needs, tolerations, "cpu_")


def pods(values: Mapping[str, Any], ray: bool) -> dict[str, list[Pod]]:
    """What a run's pods ask for, by what they are.

    Args:
        values: the run's parameters.
        ray: whether it searches on a Ray cluster, whose pods run at the same time.
    """
    whole = {"cpu": values["cpu"], "memory": values["memory"]}
    gpus = {values["accelerator"]: values["gpus"]} if int(values["gpus"]) else {}
    light = {"cpu": LIGHT_CPU, "memory": LIGHT_MEMORY}
    found = {
        "tasks on the GPU nodes": [Pod(whole | gpus, whole | gpus)],
        "other tasks": [Pod(light, {**light, "cpu": LIGHT_CPU_LIMIT})],
    }
    if not ray:
        return found
    cluster = parse(Cluster, {"image": IMAGE, **values["ray_cluster"]}, "The parameters: ray_cluster")
    disk = {"ephemeral-storage": cluster.storage} if cluster.storage else {}
    workers = int(values["ray_workers"])  # KFP's own defaults are floats
    head, worker = {"cpu": cluster.head_cpu, "memory": cluster.head_memory, **disk}, {**whole, **gpus, **disk}
    return found | {"Ray clusters": [Pod(head, head), *[Pod(worker, worker)] * workers]}
