"""`train`: one recipe on one fold."""

from collections.abc import Callable, Sequence
from pathlib import Path

from backdrop import storage
from backdrop.config import Record
from backdrop.dataset import open_dataset
from backdrop.errors import MemberError
from backdrop.folds import read_plan, verify
from backdrop.labels import Pseudo, read_labels
from backdrop.recipe import Recipe, find_recipe
from backdrop.steps.members import open_member
from backdrop.tracking import enabled
from backdrop.training.checkpoint import read_checkpoint
from backdrop.training.fold import train_member
from backdrop.training.member import CHECKPOINTS, METRICS, RECORD, Member, MemberRecord, content_key, read_member


class TrainRecord(Record):
    """The member's address (`runs:/ID/member`, or its folder), its record, and whether it was there already."""

    address: str
    member: MemberRecord
    reused: bool


def train(
    data: str,
    plan: str,
    recipe: str,
    fold: int,
    out: str,
    overrides: Sequence[str] = (),
    pseudo: str | None = None,
) -> TrainRecord:
    """Trains one member, or finds it: in MLflow by its content key (where MLFLOW_TRACKING_URI is set), or in `out`.

    Args:
        data: the dataset.
        plan: its fold plan.
        recipe: a shipped recipe's name, or a YAML file's path.
        fold: the fold that is left out and judges.
        out: the member folder; `{key}` in it stands for the first 12 digits of the content key. What a killed run
            left there is gone on with.
        overrides: `a.b=c` for the recipe.
        pseudo: a folder that `label` wrote, whose photographs are trained on too.

    Raises:
        ConfigError: if the recipe isn't valid.
        DataError: if the pseudo-labels are of another plan.
        PlanError: if the plan belongs to other data, or has no such fold.
        MemberError: if `out` holds another member.
        TrackingError: if MLflow can't be reached.
    """
    chosen, folds, dataset = find_recipe(recipe, overrides), read_plan(plan), open_dataset(data)
    digests = verify(folds, dataset)
    labels = read_labels(storage.local_folder(pseudo), folds, dataset, fold) if pseudo else Pseudo()
    key = content_key(chosen, folds, digests, fold, labels.digest)
    if known := _tracked(key):
        return TrainRecord(address=known, member=open_member(known).record, reused=True)
    target = out.replace("{key}", key[:12])
    folder = storage.cache_folder() / "training" / key if storage.is_remote(target) else Path(target)
    reused = _finished(folder, key)

    def work() -> Member:
        if reused:
            return read_member(folder)
        return train_member(dataset, folds, digests, chosen, fold, folder, key, labels)

    address = _follow(work, chosen, fold, folder, key) if enabled() else str(work().folder)
    if storage.is_remote(target):
        storage.upload_folder(folder, target, RECORD)
        address = address if enabled() else target
    return TrainRecord(address=address, member=read_member(folder).record, reused=reused)


def _tracked(key: str) -> str | None:
    """The finished member's address in MLflow, if MLflow is used and has it."""
    if not enabled():
        return None
    from backdrop.tracking.runs import find_member  # mlflow's import takes seconds: only where it's used

    return find_member(key)


def _follow(work: Callable[[], Member], recipe: Recipe, fold: int, folder: Path, key: str) -> str:
    """Trains under an MLflow run that shows each epoch; the member's address."""
    from backdrop.tracking.runs import MemberRun

    with MemberRun(key, recipe, fold) as run:
        run.follow(folder / METRICS)
        return run.finish(work().folder)


def _finished(folder: Path, key: str) -> bool:
    """Whether the folder holds this member already.

    Raises:
        MemberError: if it holds another one, finished or not.
    """
    finished = (folder / RECORD).is_file()
    checkpoint = None if finished else read_checkpoint(folder / CHECKPOINTS)
    found = read_member(folder).record.key if finished else checkpoint.progress.key if checkpoint else key
    if found != key:
        raise MemberError(f"{folder} holds a member of other data or settings", "Name another --out or delete it")
    return finished
