"""What made a run, as the tags that MLflow's pages show: which command, by whom, and at which commit."""

import functools
import shutil
import subprocess

from backdrop.common.owner import actor

COMMANDS = {"member": "train", "ensemble": "register", "search": "tune", "trial": "tune"}
PATIENCE_S = 5.0


def provenance(kind: str) -> dict[str, str]:
    """A run's source, user and, if the working folder is in a Git checkout, its commit.

    Args:
        kind: of the run: member, ensemble, search or trial.
    """
    known = commit()
    return {
        "mlflow.source.name": f"backdrop {COMMANDS[kind]}",
        "mlflow.source.type": "LOCAL",
        "mlflow.user": actor(),
        **({"mlflow.source.git.commit": known} if known else {}),
    }


@functools.cache
def commit() -> str:
    """The commit of the working folder's checkout; empty without one."""
    git = shutil.which("git")
    if not git:
        return ""
    try:
        done = subprocess.run(  # noqa: S603  # no words from outside
            [git, "rev-parse", "HEAD"], capture_output=True, timeout=PATIENCE_S, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.decode("ascii").strip() if done.returncode == 0 else ""
