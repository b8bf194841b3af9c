"""The lowest versions that pyproject.toml allows install together, and the library works with them."""

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
EXTRAS = ("heic", "pipelines", "s3", "serving", "signing", "student", "tuning")
FIRST = {"kubernetes": "30.1.*", "nvidia-ml-py": "12.*", "torch": "2.13.0"}  # of `>=30` and `>=12`; torch is pinned
CORE = "config data models inference evaluation training/test_step.py training/test_losses.py report pipelines serving"
TOOLS = ("hypothesis", "jsonschema", "mapie", "moto[server]", "pytest")


def lowest() -> list[str]:
    """The lowest version of each requirement, as pip's constraints: `==2.54.*` for `>=2.54`."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *(one for extra in EXTRAS for one in project["optional-dependencies"][extra])]
    constraints = []
    for name, sign, version in (re.match(r"([\w-]+)(?:\[.*?\])?([>=]=)([\d.]+)", one).groups() for one in required):  # type: ignore[union-attr]
        exact = FIRST.get(name, version if sign == "==" else "")
        constraints.append(f"{name}=={exact or (version if '.' in version else f'{version}.0') + '.*'}")
    return sorted(set(constraints))


@pytest.mark.slow
def test_the_lowest_versions_work(tmp_path: Path) -> None:
    python = tmp_path / "venv" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    (tmp_path / "lowest.txt").write_text("\n".join(lowest()))
    wanted = [f"{ROOT}[{','.join(EXTRAS)}]", *TOOLS]
    pip = [python, "-m", "pip", "install", "--quiet", "--constraint", tmp_path / "lowest.txt", "--editable", *wanted]
    subprocess.run(pip, check=True)
    tests = [ROOT / "tests" / name for name in CORE.split()]
    # Old versions run on the newest of what they need themselves, and use what is deprecated there.
    command = [python, "-m", "pytest", "-q", "-W", "ignore::DeprecationWarning", "-m", "not (slow or thorough or e2e)"]
    subprocess.run([*command, *tests], cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)
