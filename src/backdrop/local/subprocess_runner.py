"""Local runs in processes: kfp's SubprocessRunner, fixed to take any path, and to end its tasks when the run ends."""

import os
import shlex
import signal
import subprocess
from collections.abc import Mapping, Sequence

from kfp import local
from kfp.local import subprocess_task_handler

from backdrop.common import processes
from backdrop.local.logs import print_line


def process_runner() -> local.SubprocessRunner:
    """A runner whose processes use this Python and this environment."""
    subprocess_task_handler.replace_python_executable = name_python
    subprocess_task_handler.run_local_subprocess = run_process
    return local.SubprocessRunner(use_venv=False)


def name_python(full_command: Sequence[str], executable: str) -> list[str]:
    """A task's command with the Python that is to run it.

    kfp's own function doesn't quote its path, so that none in a folder with a space starts, and changes `python3` in
    all that the task is given, the paths of its data among them.
    """
    shell, option, script, *rest = full_command
    return [shell, option, script.replace("python3 -m", f"{shlex.quote(executable)} -m"), *rest]


def run_process(full_command: Sequence[str], env_vars: Mapping[str, str] | None = None) -> int:
    """Runs a command to its end, prints its output, and returns its exit code.

    kfp's own function waits for the command even if the run gets a SIGTERM; only a terminal's Ctrl-C reaches both. So
    here the command runs in a session of its own, which ends with the run.
    """
    with processes.session(
        full_command,
        signal.SIGINT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **(env_vars or {})},
    ) as task:
        for line in task.stdout or ():
            print_line(line.removesuffix("\n"))
        return int(task.wait())
