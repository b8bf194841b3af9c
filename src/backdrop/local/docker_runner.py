"""Local runs in containers of the image: kfp's DockerRunner, made to see when a container fails."""

import codecs
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
from backdrop.components.image import IMAGE
from backdrop.config.cluster import SHARED_MEMORY_SIZE

PASSED_ON = ("AWS_", "BACKDROP_", "MLFLOW_", "RAY_")  # how the names of a task's settings begin


def docker_runner(data: str, folders: Sequence[Path]) -> local.DockerRunner:
    """How a task's container is run: by whoever asks, with the data to read, and some folders and the cache to write.

    Containers share this machine's network, so that they find a server at 127.0.0.1.

    Args:
        data: the dataset: an absolute path or an s3:// address.
        folders: where members and artifacts are; made here, or Docker would make them root's.

    Raises:
        DockerError: if Docker doesn't answer, or hasn't got the image.
    """
    docker_task_handler.run_docker_container = run_container
    cache = storage.cache_folder().resolve()
    for folder in (*folders, cache):
        folder.mkdir(parents=True, exist_ok=True)
    mounts = [_mount(str(folder)) for folder in (*folders, cache)]
    if not storage.is_remote(data):
        mounts.append(_mount(data, read_only=True))
    return local.DockerRunner(
        user=f"{os.getuid()}:{os.getgid()}",
        mounts=mounts,
        environment=_settings(os.environ) | {"BACKDROP_CACHE": str(cache)},
        network_mode="host",
        shm_size=SHARED_MEMORY_SIZE.removesuffix("i"),  # Docker's word for the same
        device_requests=_gpus(find_docker()),
    )


def find_docker() -> dict[str, Any]:
    """What Docker says of itself.

    Raises:
        DockerError: if Docker doesn't answer, or hasn't got the image.
    """
    try:
        client = docker.from_env()
        try:
            client.images.get(IMAGE)
            return dict(client.info())
        finally:
            client.close()
    except ImageNotFound as error:
        raise DockerError(
            f"Docker has no image {IMAGE}", "Build it with make image, pull it, or name another with BACKDROP_IMAGE"
        ) from error
    except DockerException as error:
        raise DockerError(
            f"Docker doesn't answer ({shorten(error)})",
            "Start it and see that docker info works, or leave --runner docker out",
        ) from error


def run_container(
    client: docker.DockerClient, image: str, command: list[str], volumes: dict[str, Any], **options: Any
) -> int:
    """Runs a container to its end, prints what it says, and gives its exit code.

    kfp's own lets Docker remove the container by itself. If Docker is quicker with that than kfp with its question for
    the exit code, kfp takes it for 0. So here the container is removed when the code is known.
    """
    try:
        container = client.containers.create(image, command, volumes=volumes, **options)
        try:
            container.start()
            for line in lines(container.logs(stream=True)):
                print(line)
            return int(container.wait()["StatusCode"])
        finally:
            container.remove(force=True)
    except DockerException as error:  # such as a GPU that isn't there; kfp would keep it to itself
        print(f"Docker: {shorten(error)}")
        return 1


def lines(chunks: Iterable[bytes]) -> Iterator[str]:
    """The lines of a stream that is cut anywhere: kfp marks a task's output line by line."""
    rest = ""
    for text in codecs.iterdecode(chunks, "utf-8", "replace"):
        *whole, rest = (rest + text).split("\n")
        yield from whole
    if rest:
        yield rest


def _mount(folder: str, read_only: bool = False) -> Mount:
    """A folder under the path that it has here."""
    return Mount(folder, folder, type="bind", read_only=read_only)


def _settings(environment: Mapping[str, str]) -> dict[str, str]:
    return {name: value for name, value in environment.items() if name.startswith(PASSED_ON)}


def _gpus(info: Mapping[str, Any]) -> list[DeviceRequest] | None:
    """All GPUs, where Docker can hand them on."""
    return [DeviceRequest(count=-1, capabilities=[["gpu"]])] if "nvidia" in info.get("Runtimes", ()) else None
