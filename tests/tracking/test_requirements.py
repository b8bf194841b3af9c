"""What a version asks of pip is all that it needs, once the release is there to be installed; MLflow can serve it."""

import base64
import os
import subprocess
import sys
import sysconfig
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
import requests
from mlflow.pyfunc import get_model_dependencies

from backdrop import __version__
from backdrop.common import processes
from backdrop.config import find_recipe
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import open_dataset
from backdrop.inference.member import RECIPE
from backdrop.steps.promote import promote
from backdrop.tracking import tracking_uri
from backdrop.tracking.server import is_healthy
from backdrop.tracking.version_files import requirement
from tests.fakes.http import free_port
from tests.test_package import build
from tests.tracking.workspace import Workspace

LOAD = """
import pathlib, sys
import backdrop, mlflow, pandas
address, photo, mask = sys.argv[1:]
data = pandas.DataFrame({"image": [pathlib.Path(photo).read_bytes()]})
pathlib.Path(mask).write_bytes(mlflow.pyfunc.load_model(address).predict(data)["mask"][0])
print(backdrop.__file__)
"""


def link_libraries(folder: Path) -> None:
    """This environment's libraries, without Backdrop and without what leads to a checkout."""
    folder.mkdir()
    for site in {sysconfig.get_path("purelib"), sysconfig.get_path("platlib")}:
        for path in Path(site).iterdir():
            if not path.name.startswith(("backdrop", "__editable__")) and path.suffix != ".pth":
                (folder / path.name).symlink_to(path)


@pytest.mark.slow
def test_a_version_works_and_is_served_where_only_its_requirements_are_installed(
    clean: None, workspace: Workspace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, venv = f"model-{tmp_path.name}", tmp_path / "venv"
    workspace.register(name, 1, 0.95)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", tracking_uri())
    requirements = get_model_dependencies(f"models:/{name}/1")
    for folder in ("source", "dist", "elsewhere"):
        (tmp_path / folder).mkdir()
    build(tmp_path / "source", tmp_path / "dist")

    kept = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "BACKDROP"))}
    env = {**kept, "PIP_FIND_LINKS": str(tmp_path / "dist"), "PIP_NO_INDEX": "1", "HOME": str(tmp_path)}
    python = str(venv / "bin" / "python")

    def run(*command: str) -> str:
        done = subprocess.run(command, cwd=tmp_path / "elsewhere", env=env, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout.strip()

    run(sys.executable, "-m", "venv", "--without-pip", str(venv))
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"))
    link_libraries(tmp_path / "libraries")
    (site / "libraries.pth").write_text(str(tmp_path / "libraries"))
    run(sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--requirement", requirements)

    # pip makes a program of each library; MLflow starts this one by its name.
    uvicorn = venv / "bin" / "uvicorn"
    uvicorn.write_text(f"#!{python}\nimport uvicorn\nuvicorn.main()\n")
    uvicorn.chmod(0o755)
    photo = next(iter(open_dataset(workspace.data).photos.values())).image
    assert run(python, "-c", LOAD, f"models:/{name}/1", str(photo), str(tmp_path / "mask.png")).startswith(str(site))
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == cv2.imread(str(photo)).shape[:2]
    assert set(np.unique(mask)) <= {0, 255}

    promote(str(workspace.data), name)
    port = free_port()
    options = ("--env-manager", "local", "--host", "127.0.0.1", "--port", str(port))
    command = [python, "-m", "mlflow", "models", "serve", "-m", f"models:/{name}@champion", *options]
    env["PATH"] = f"{venv / 'bin'}{os.pathsep}{env['PATH']}"
    rows = {"columns": ["image"], "data": [[base64.b64encode(photo.read_bytes()).decode()]]}
    with processes.session(command, cwd=tmp_path / "elsewhere", env=env) as server:
        while not is_healthy(port):
            assert server.poll() is None
            time.sleep(0.2)
        reply = requests.post(f"http://127.0.0.1:{port}/invocations", json={"dataframe_split": rows}, timeout=300)
    (answer,) = reply.json()["predictions"]
    assert base64.b64decode(answer["mask"]) == (tmp_path / "mask.png").read_bytes()


@pytest.mark.parametrize(("recipe", "extras"), [("tiny", ""), ("efficientnet-lite", "[encoders]")])
def test_a_version_requires_the_extras_of_its_networks(recipe: str, extras: str, tmp_path: Path) -> None:
    for name in ("tiny", recipe):
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / RECIPE).write_text(dump_yaml(find_recipe(name)))
    assert requirement(tmp_path) == f"backdrop-ml{extras}=={__version__}"
