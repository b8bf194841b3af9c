"""What a version asks of pip is all that it needs, once the release is there to be installed."""

import os
import subprocess
import sys
import sysconfig
from pathlib import Path

import cv2
import numpy as np
import pytest
from mlflow.pyfunc import get_model_dependencies

from backdrop.data.dataset import open_dataset
from backdrop.tracking import tracking_uri
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
def test_a_version_works_where_only_its_requirements_are_installed(
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

    photo = next(iter(open_dataset(workspace.data).photos.values())).image
    assert run(python, "-c", LOAD, f"models:/{name}/1", str(photo), str(tmp_path / "mask.png")).startswith(str(site))
    mask = cv2.imread(str(tmp_path / "mask.png"), cv2.IMREAD_GRAYSCALE)
    assert mask.shape == cv2.imread(str(photo)).shape[:2]
    assert set(np.unique(mask)) <= {0, 255}
