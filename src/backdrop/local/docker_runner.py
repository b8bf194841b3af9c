"""Local runs in containers of the image: kfp's DockerRunner, fixed to notice when a container fails."""

import codecs
import contextlib
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import docker
from docker.errors import DockerException, ImageNotFound
from docker.types import DeviceRequest, Mount
from kfp import local
from kfp.local import docker_task_handler

from backdrop.common import storage
from backdrop.common.errors import DockerError, shorten
from backdrop.common.progress import log
from backdrop.components.image import CPU_IMAGE, IMAGE
from backdrop.config.cluster import SHARED_MEMORY_SIZE
from backdrop.local.logs import print_line

LABEL = "backdrop.work"  # of each container: its run's work folder
PASSED_ON = ("AWS_", "BACKDROP_", "MLFLOW_", "RAY_")  # prefixes of the variables that tasks need


def docker_runner(data: str, folders: Sequence[Path], work: Path) -> local.DockerRunner:
    """A runner whose containers run as this user, read the data, and write to the folders and the cache.

    Containers share this machine's network, so that they can reach a server at 127.0.0.1. They outlive a run that is
    killed; the next run in the same work folder removes them.

    Args:
        data: the dataset: an absolute path or an s3:// address.
        folders: for members and artifacts; created here, because Docker would create them as root.
        work: the run's work folder, whose lock is held.

    Raises:
        DockerError: if Docker doesn't answer or doesn't have the image.
    """
    docker_task_handler.run_docker_container = run_container
    cache = storage.cache_folder().resolve()
    for folder in (*folders, cache):
        folder.mkdir(parents=True, exist_ok=True)
    mounts = [_mount(str(folder)) for folder in (*folders, cache)]
    if not storage.is_remote(data):
        mounts.append(_mount(data, read_only=True))
    label = {LABEL: str(work.resolve())}
    remove_containers(label)
    return local.DockerRunner(
        labels=label,
        user=f"{os.getuid()}:{os.getgid()}",
        mounts=mounts,
        environment=_settings(os.environ) | {"BACKDROP_CACHE": str(cache)},
        network_mode="host",
        shm_size=SHARED_MEMORY_SIZE.removesuffix("i"),  # Docker's unit for the same size
        device_requests=_gpus(find_docker()),
    )


def remove_containers(label: Mapping[str, str]) -> None:
    """Removes all containers with a label, and says so.

    Raises:
        DockerError: if Docker doesn't answer.
    """
    filters = {"label": [f"{name}={value}" for name, value in label.items()]}
    try:
        with contextlib.closing(docker.from_env()) as client:
            for container in client.containers.list(all=True, filters=filters):
                log(f"Removing container {container.name} of an earlier run")
                container.remove(force=True)
    except DockerException as error:
        raise DockerError(f"Docker doesn't answer ({shorten(error)})", "Start it and run the command again") from error


def find_docker() -> dict[str, Any]:
    """Docker's description of itself.

    Raises:
        DockerError: if Docker doesn't answer or doesn't have the images.
    """
    try:
        with contextlib.closing(docker.from_env()) as client:
            for image in (IMAGE, CPU_IMAGE):
                _require(client, image)
            return dict(client.info())
    except (DockerException, OSError, ValueError) as error:  # ValueError: DOCKER_HOST isn't an address
        raise DockerError(
            f"Docker doesn't answer ({shorten(error)})",
            "Start it and check that `docker info` works, or leave out --runner docker",
        ) from error


def _require(client: docker.DockerClient, image: str) -> None:
    try:
        client.images.get(image)
    except ImageNotFound as error:
        remedy = "Build it with `make image`, pull it, or set BACKDROP_IMAGE to another"
        raise DockerError(f"Docker has no image {image}", remedy) from error


def run_container(
    client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
) -> int:
    """Runs a container to its end, prints its output, and returns its exit code.

    kfp's own function lets Docker remove the container when it ends. If that happens before kfp asks for the exit code,
    kfp assumes 0. So here the container is removed after its exit code is read.
    """
    try:
        container = client.containers.create(image, command, volumes=volumes, **options)
        try:
            container.start()
            for line in lines(container.logs(stream=True)):
                print_line(line)
            return int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)
    except DockerException as error:  # such as a missing GPU; kfp would hide it
        print_line(f"Docker: {shorten(error)}")
        return 1


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream of arbitrary chunks."""
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-8", "replace"):
        *complete, rest = (rest + text).split("\n")
        yield from complete
    if rest:
        yield rest


def _mount(folder: str, read_only: bool = False) -> Mount:
    """A folder, mounted at the same path."""
    return Mount(folder, folder, type="bind", read_only=read_only)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}


def _gpus(info: Mapping[str, Any]) -> list[DeviceRequest] | None:
    """A request for all GPUs, if Docker can use them."""
    return [DeviceRequest(count=-1, capabilities=[["gpu"]])] if "nvidia" in info.get("Runtimes", ()) else None
