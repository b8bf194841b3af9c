"""An ensemble's fold plans as one artifact: a folder with a file for each, the ensemble's own first.

KFP can't pass artifacts of several tasks to one component, so each split task passes on the earlier plans and its own.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path


def plan_paths(folder: str) -> list[str]:
    """The plans in a folder, in the order in which they were added."""
    return [str(path) for path in sorted(Path(folder).iterdir())]


def pass_on(before: Sequence[str], plan: str, folder: str) -> None:
    """Writes the earlier plans and then this one to the folder."""
    Path(folder).mkdir(parents=True)
    for number, path in enumerate([*before, plan]):
        shutil.copyfile(path, Path(folder, f"{number:03}.csv"))
