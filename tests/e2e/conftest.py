"""What tests in containers need."""

from collections.abc import Iterator

import docker
import pytest

from backdrop.common.errors import DockerError
from backdrop.local.docker_runner import find_docker


@pytest.fixture(scope="session")
def engine() -> Iterator[docker.DockerClient]:
    """Docker, with the image that `make image` builds."""
    try:
        find_docker()
    except DockerError as error:
        pytest.skip(str(error))
    client = docker.from_env()
    yield client
    client.close()
