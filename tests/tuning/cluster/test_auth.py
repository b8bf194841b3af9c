"""What a local Ray cluster does with its token, in a process and a home of its own."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.tuning.machine import ray_folder

CODE = """
import os, sys
{first}
from backdrop.tuning.cluster.auth import local_cluster
before = dict(os.environ)
for _ in range(2):
    with local_cluster():
        import ray
        while not ray.is_initialized():
            try:
                ray.init("local", num_cpus=1, include_dashboard=False, log_to_driver=False, _temp_dir=sys.argv[1])
            except Exception as error:  # Ray gives its own processes half a minute, whatever the machine has to do
                if "timed out during startup" not in str(error):
                    raise
                ray.shutdown()
        notify = ray.get(ray.remote(lambda: (os.environ["RAY_AUTH_MODE"], os.environ["RAY_AUTH_TOKEN"])).remote())
        assert notify == ("token", os.environ["RAY_AUTH_TOKEN"]), notify
        ray.shutdown()
    changed = [name for name in {{*before, *os.environ}} if before.get(name) != os.environ.get(name)]
    assert not [name for name in changed if "AUTH" in name or "USAGE" in name], changed
"""


@pytest.mark.parametrize(
    ("first", "mode"),
    [
        pytest.param("import ray", None, marks=pytest.mark.thorough),
        pytest.param("import ray", "disabled", marks=pytest.mark.slow),
        pytest.param("", None, marks=pytest.mark.slow),
        pytest.param("", "token", marks=pytest.mark.slow),
    ],
)
def test_a_local_cluster_has_a_token_and_writes_none(first: str, mode: str | None, tmp_path: Path) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    environment |= {"HOME": str(tmp_path), "PYTHONPATH": os.pathsep.join(sys.path)}
    environment |= {"RAY_AUTH_MODE": mode} if mode else {}
    with ray_folder() as folder:
        command = [sys.executable, "-c", CODE.format(first=first), str(folder)]
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not list(tmp_path.rglob("*"))
