"""Runs a task in its container: our environment before Kubeflow's executor, and the reason in plain words after it.

`python3 -m backdrop.components.task kfp.dsl.executor_main …` is what a component's container runs.
"""

import contextlib
import json
import os
import runpy
import sys
import traceback
from pathlib import Path

from backdrop.common.environment import check_files
from backdrop.common.errors import ERROR, FIX, BackdropError, explain
from backdrop.common.processes import cpu_limit
from backdrop.common.redact import redact
from backdrop.config.cluster import TASK_PREFIX

# Kubernetes shows what is written here as the reason of a container's end, and so does Kubeflow's UI.
TERMINATION_LOG = Path("/dev/termination-log")
INPUT = "--executor_input"  # of Kubeflow's executor: JSON
BUG = "Please report it with the traceback above"


def main() -> None:
    """Runs the module that the first argument names, with the other arguments.

    If it fails, the last lines of the log are `error: what` and, with a remedy, `fix: remedy`.

    Raises:
        SystemExit: with the error's exit code, as on the command line.
    """
    take_settings()
    limit_threads()
    module = sys.argv.pop(1)
    if INPUT in sys.argv[:-1]:
        place = sys.argv.index(INPUT) + 1
        sys.argv[place] = with_whole_numbers(sys.argv[place])
    try:
        check_files()
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    except SystemExit as stopped:
        if isinstance(stopped.code, str):
            sys.exit(_say(1, f"{ERROR}{stopped.code}"))
        raise
    except Exception as error:
        if not isinstance(error, BackdropError):
            print(redact("".join(traceback.format_exception(error))), end="", file=sys.stderr)
        ours = explain(error, BUG)
        sys.exit(_say(ours.exit_code, f"{ERROR}{ours.what}", f"{FIX}{ours.remedy}"))


def with_whole_numbers(text: str) -> str:
    """JSON with `3` for `3.0`: Kubeflow may write a whole number so, and its executor converts none."""

    def number(digits: str) -> float:
        value = float(digits)
        return int(value) if value.is_integer() else value

    try:
        return json.dumps(json.loads(text, parse_float=number))
    except ValueError:  # the executor says what is wrong
        return text


def take_settings() -> None:
    """Renames `BACKDROP_AWS_…` to `AWS_…` for this process and its children.

    Kubeflow's launcher runs in the same container and reads `AWS_…` too, but for Kubeflow's own store. The experiment
    of Kubeflow's MLflow plugin, which comes with a run, isn't ours either: it's where that run is.
    """
    if os.environ.get("MLFLOW_RUN_ID"):
        os.environ.pop("MLFLOW_EXPERIMENT_ID", None)
    for name in [name for name in os.environ if name.startswith(f"{TASK_PREFIX}AWS_")]:
        os.environ[name.removeprefix(TASK_PREFIX)] = os.environ.pop(name)


def limit_threads() -> None:
    """Lets libraries start as many threads as the container may use CPUs: by default they count those of the node."""
    if limit := cpu_limit():
        os.environ.setdefault("OMP_NUM_THREADS", str(limit))


def _say(code: int, *lines: str) -> int:
    """Prints each line as one, also for Kubernetes, and returns the exit code."""
    lines = tuple(" ".join(redact(line).split()) for line in lines)
    sys.stdout.flush()
    print(*lines, sep="\n", file=sys.stderr, flush=True)
    with contextlib.suppress(OSError):  # the log has the lines anyhow
        if TERMINATION_LOG.exists():
            TERMINATION_LOG.write_text(". ".join(lines), encoding="utf-8")
    return code


if __name__ == "__main__":
    main()
