"""The images as a strict cluster runs them: nobody's user, no capabilities, nothing to write but /tmp."""

from collections.abc import Callable
from pathlib import Path

import docker
import pytest

from backdrop import __version__
from backdrop.components.image import CPU_IMAGE, IMAGE

pytestmark = pytest.mark.e2e

ROOT = Path(__file__).parents[2]
STRICT = {
    "read_only": True,
    "tmpfs": {"/tmp": ""},
    "cap_drop": ["ALL"],
    "security_opt": ["no-new-privileges"],
    "network_mode": "none",
}
OWN = {"backdrop", f"backdrop_ml-{__version__}.dist-info", "bin"}
SETTINGS = {"PATH", "PYTHONPATH", "PYTHONDONTWRITEBYTECODE", "PYTHONUNBUFFERED", "HOME", "USER"}

Inside = Callable[..., str]


@pytest.fixture(params=[IMAGE, CPU_IMAGE], ids=["cuda", "cpu"])
def image(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def inside(engine: docker.DockerClient, image: str) -> Inside:
    """Runs a command in the image and gives what it printed; fails if it fails."""

    def call(*command: str, **options: object) -> str:
        return engine.containers.run(image, list(command), remove=True, stderr=True, **STRICT | options).decode()

    return call


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (["backdrop", "--help"], "Usage: backdrop"),
        (["backdrop", "--version"], __version__),
        (["backdrop", "pipeline", "--help"], "Usage: backdrop pipeline"),
        (["mlflow", "--version"], "mlflow, version"),
        (["id"], "uid=1000 gid=1000"),
        (["sh", "-c", "command -v python3"], "/opt/venv/bin/python3"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_commands(inside: Inside, command: list[str], said: str) -> None:
    assert said in inside(*command)


def test_every_library_is_there(inside: Inside, image: str) -> None:
    names = (
        "boto3, backdrop.components.train, backdrop.local.run, backdrop.serving.server, "
        "kfp.kubernetes, kubernetes, mlflow.pyfunc, model_signing"
    )
    more = ", optuna, ray.tune" if image == IMAGE else ""
    assert inside("python3", "-c", f"import {names}{more}; print('all')").endswith("all\n")


def test_the_one_for_cpus_is_small(engine: docker.DockerClient) -> None:
    assert engine.images.get(CPU_IMAGE).attrs["Size"] < 1.95e9
    listed = engine.containers.run(CPU_IMAGE, ["ls", "/opt/venv/lib/python3.11/site-packages"], remove=True).decode()
    assert not {"nvidia", "optuna", "ray", "triton"} & set(listed.split())


def test_another_user_may_run_it_too(inside: Inside) -> None:
    code = "import getpass, matplotlib.pyplot, torch; print(getpass.getuser())"
    assert "backdrop" in inside("python3", "-c", code, user="4321:4321")


def test_photographs_are_checked_where_only_tmp_can_be_written(inside: Inside) -> None:
    text = inside(
        "sh", "-c", "backdrop sample /tmp/data --objects 2 --views 2 --size 96x64 && backdrop check /tmp/data"
    )
    assert "0 errors" in text


@pytest.mark.parametrize("image", [IMAGE], ids=["cuda"])
def test_ray_starts_where_only_tmp_can_be_written(inside: Inside) -> None:
    code = "import ray; ray.init(address='local', num_cpus=1); print(ray.get(ray.remote(lambda: 'done').remote()))"
    assert "done" in inside("python3", "-c", code)


def test_packages_are_the_pinned_ones(inside: Inside) -> None:
    code = "from importlib.metadata import distributions as d; print(*(f'{p.name}=={p.version}' for p in d()))"
    pinned = {canonical(line) for line in (ROOT / "constraints.txt").read_text().split()}
    installed = {canonical(line) for line in inside("python3", "-c", code).split()}
    # `pip freeze` never names setuptools, and torch itself pins CUDA where it comes with it.
    others = {
        line for line in installed - pinned if not line.startswith(("setuptools==", "cuda-", "nvidia-", "triton=="))
    }
    assert others == {f"backdrop-ml=={__version__}"}


def canonical(requirement: str) -> str:
    """`Name==1+cpu` as `name==1`: which build of torch is inside isn't pinned."""
    return requirement.lower().replace("_", "-").partition("+")[0]


def test_nothing_is_inside_that_does_not_belong_there(inside: Inside, engine: docker.DockerClient, image: str) -> None:
    assert set(inside("ls", "-A", "/app").split()) == OWN
    assert inside("find", "/", "-xdev", "(", "-name", "torch-*.whl", "-o", "-name", ".git", ")", user="0") == ""
    assert inside("find", "/app", "/opt", "-name", "tests") == ""
    config = engine.images.get(image).attrs["Config"]
    settings = {line.partition("=")[0] for line in config["Env"]}
    assert settings >= SETTINGS
    assert not {name for name in settings if "KEY" in name or "TOKEN" in name or "PASSWORD" in name}


def test_labels(engine: docker.DockerClient, image: str) -> None:
    labels = engine.images.get(image).labels
    assert labels["org.opencontainers.image.licenses"] == "Apache-2.0"
    assert labels["org.opencontainers.image.version"] == __version__
    assert len(labels["org.opencontainers.image.revision"]) == 40
    assert labels["org.opencontainers.image.source"].startswith("https://")
