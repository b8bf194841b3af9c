"""What `pip install` brings: wheel, sdist and checkout hold the same files; the wheel needs no checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[1]
# What a build reads.
SOURCES = ("pyproject.toml", "MANIFEST.in", "README.md", "LICENSE", "src", "components", "pipelines")
SDIST = "from setuptools import build_meta; build_meta.build_sdist(OUT)"


class Built(NamedTuple):
    wheel: Path
    sdist: Path


def run(*command: str | Path, folder: Path, env: dict[str, str] | None = None) -> str:
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    return build(tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("dist"))


def build(source: Path, out: Path) -> Built:
    """Builds from a copy, so that nothing of an earlier build's `build/` gets in."""
    for name in SOURCES:
        path = ROOT / name
        if path.is_dir():
            unwanted = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(path, source / name, symlinks=True, ignore=unwanted)
        else:
            shutil.copy(path, source)
    flags = ("--quiet", "--no-deps", "--no-index", "--no-build-isolation")
    run(sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", out, ".", folder=source)
    run(sys.executable, "-W", "ignore", "-c", SDIST.replace("OUT", repr(str(out))), folder=source)
    (wheel,), (sdist,) = out.glob("*.whl"), out.glob("*.tar.gz")
    return Built(wheel, sdist)


def test_wheel_sdist_and_checkout_hold_the_same_files(built: Built) -> None:
    checkout = {
        str((Path(folder) / file).relative_to(ROOT / "src")): (Path(folder) / file).read_bytes()
        for folder, _, files in os.walk(ROOT / "src" / "backdrop", followlinks=True)
        for file in files
        if not file.endswith(".pyc")
    }
    with zipfile.ZipFile(built.wheel) as archive:
        wheel = {name: archive.read(name) for name in archive.namelist() if name.startswith("backdrop/")}
    with tarfile.open(built.sdist) as tar:
        files = [entry for entry in tar if entry.isfile() and "/src/backdrop/" in entry.name]
        sdist = {entry.name.partition("/src/")[2]: tar.extractfile(entry).read() for entry in files}
        others = {entry.name.partition("/")[2].partition("/")[0] for entry in tar if "/" in entry.name}
    assert sorted(wheel) == sorted(checkout)
    assert wheel == checkout
    assert sdist == checkout
    assert others == {"LICENSE", "MANIFEST.in", "PKG-INFO", "README.md", "pyproject.toml", "setup.cfg", "src"}
    assert {"backdrop/components/train.py", "backdrop/pipelines/training.py", "backdrop/py.typed"} <= set(wheel)


@pytest.fixture
def installed(built: Built, tmp_path: Path) -> Callable[..., str]:
    """Runs a program of a new environment, in an empty folder: it has the wheel, and this environment's libraries."""
    venv, folder = tmp_path / "venv", tmp_path / "empty"
    folder.mkdir()
    run(sys.executable, "-m", "venv", "--without-pip", venv, folder=folder)
    python = venv / "bin" / "python"
    site = Path(run(python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder).strip())
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "MLFLOW", "BACKDROP"))}
    env = {**kept, "PATH": f"{venv / 'bin'}{os.pathsep}{os.environ['PATH']}", "HOME": str(tmp_path)}
    flags = ("--quiet", "--no-deps", "--no-index", "--ignore-installed")
    run(sys.executable, "-m", "pip", "--python", python, "install", *flags, built.wheel, folder=folder, env=env)
    # A line in a .pth adds a folder, and reads no .pth in it: an editable install of the checkout stays out.
    paths = dict.fromkeys([sysconfig.get_path("purelib"), sysconfig.get_path("platlib")])
    (site / "libraries.pth").write_text("\n".join(paths))

    def call(program: str, *arguments: str) -> str:
        return run(venv / "bin" / program, *arguments, folder=folder, env=env)

    return call


@pytest.mark.e2e
def test_the_wheel_works_in_an_empty_folder(installed: Callable[..., str], tmp_path: Path) -> None:
    code = "import backdrop, backdrop.components as c; print(backdrop.__file__, c.__file__)"
    assert all(path.startswith(f"{tmp_path / 'venv'}/") for path in installed("python", "-c", code).split())
    assert "package.yaml" in installed("backdrop", "pipeline", "compile", "tiny")
    assert "14 objects x 2 views" in installed("backdrop", "sample", "photos", "--views", "2", "--size", "96x64")
    said = installed("backdrop", "pipeline", "run", "tiny", "--data", "photos", "--folds", "0", "--set", "epochs=1")
    assert "models:/tiny/1" in said
    assert (tmp_path / "empty" / "work" / "report" / "index.html").is_file()
