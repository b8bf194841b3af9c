"""The ensemble of `pipeline run auto`: proposed once, and kept beside the outputs."""

from pathlib import Path

from rich.console import Console

from backdrop.common import storage
from backdrop.common.lock import hold
from backdrop.common.output_file import require_file, write_file
from backdrop.data.dataset import open_dataset

FILE = "auto.yaml"


def propose_here(data: str, hours: float | None, work: Path, objects: int, console: Console) -> str:
    """The path of the work folder's proposal; it is made if there is none, so that a retry trains the same ensemble.

    Args:
        data: the dataset.
        hours: of one device; None for the default.
        work: the work folder.
        objects: use only this many objects, the first by name; 0 for all.
        console: where the reasons are printed.

    Raises:
        DataError: if the dataset has no masks or too few objects, or a photograph can't be read.
        StorageError: if the work folder can't be written, or another run has it.
        TrainingError: if nothing can be trained in time.
    """
    path = work / FILE
    with hold(work, "pipeline run", "--work"):
        if path.is_file():
            lines = [f"Using the ensemble in {path}; delete it to get another proposal"]
        else:
            # Slow: it imports torch.
            from backdrop.steps.estimate import HOURS, PROPOSAL, is_proposal, propose_for

            require_file(path, is_proposal, PROPOSAL)
            found = propose_for(open_dataset(data).first(objects or None), hours or HOURS)
            write_file(path, found.text.encode(), is_proposal, PROPOSAL)
            lines = [*found.reasons, f"The ensemble is in {path}"]
    for line in lines:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    return str(storage.absolute(str(path)))
