"""`train`: one recipe on one fold."""

import os
from collections.abc import Callable, Collection, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING

from backdrop.common import storage
from backdrop.common.errors import MemberError
from backdrop.common.lock import hold
from backdrop.common.outputs import Claim, probe, repair
from backdrop.common.places import checked_address
from backdrop.common.progress import log, working
from backdrop.common.text import parse_json
from backdrop.config import Recipe, find_recipe
from backdrop.config.records import Record
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import read_plan, verify
from backdrop.data.pseudo_labels import read_labels
from backdrop.inference.member import (
    CHECKPOINTS,
    CURVES,
    METRICS,
    NO_LABELS,
    ONNX,
    RECIPE,
    RECORD,
    SAMPLES,
    STEP,
    WEIGHTS,
    Member,
    MemberRecord,
    MemberSpec,
    read_member,
)
from backdrop.steps.members import open_member
from backdrop.tracking import enabled
from backdrop.tracking.members import find_member

if TYPE_CHECKING:
    from backdrop.training.checkpoint_store import CheckpointStore
    from backdrop.training.distributed import Distributed
    from backdrop.training.live_pictures import Show

NEEDED = (RECIPE, WEIGHTS, METRICS, RECORD)  # of a finished member, which is whole without its pictures
FETCHED = (RECIPE, WEIGHTS, METRICS, CURVES, ONNX)  # with its samples and its record


class TrainRecord(Record):
    """The member's address (`runs:/ID/member`, or its folder), its record, and whether it was reused."""

    address: str
    member: MemberRecord
    reused: bool


@working("preparing to train")
def train(
    data: str,
    plan: str,
    recipe: str | Recipe,
    fold: int,
    out: str,
    overrides: Sequence[str] = (),
    pseudo: str | None = None,
    fresh: bool = False,
) -> TrainRecord:
    """Trains one member, or reuses it: from MLflow by its content key, or from `out`.

    Started by `torchrun`, its processes train the member together.

    Args:
        data: the dataset.
        plan: its fold plan.
        recipe: a shipped recipe's name, a YAML file's path, or the recipe itself.
        fold: the fold to leave out and validate on.
        out: the member folder; `{key}` in it stands for the first 12 digits of the content key. A killed
            run resumes there.
        overrides: `a.b=c` for the recipe.
        pseudo: a folder that `label` wrote, to train on its photographs as well.
        fresh: train again, whatever MLflow or `out` holds; a line says what is discarded.

    Raises:
        ConfigError: if the recipe isn't valid.
        DataError: if the pseudo-labels are of another plan.
        PlanError: if the plan belongs to other data, or has no such fold.
        MemberError: if `out` holds another member.
        StorageError: if `out` holds something else, or can't be written.
        TrainingError: if training can't continue.
        TrackingError: if MLflow can't be reached.
    """
    chosen = find_recipe(recipe, overrides)
    folds, dataset = read_plan(plan), open_dataset(data)
    digests = verify(folds, dataset)
    labels = NO_LABELS if pseudo is None else read_labels(storage.local_folder(pseudo), folds, dataset, fold)
    return make_member(MemberSpec(dataset, folds, digests, chosen, fold, labels), out, fresh)


def make_member(spec: MemberSpec, out: str, fresh: bool) -> TrainRecord:
    """Trains a member or reuses it; `out` and `fresh` are those of `train`, and it raises as `train` does."""
    key = spec.key
    target = checked_address(out.replace("{key}", key[:12]))
    searched = enabled() and not fresh
    alone = os.environ.get("WORLD_SIZE", "1") == "1"  # torchrun sets it
    known = find_member(key) if searched and alone else None
    if known:
        return TrainRecord(address=known, member=open_member(known).record, reused=True)
    # Slow: these import torch.
    from backdrop.training.checkpoint_store import CheckpointStore
    from backdrop.training.distributed import join
    from backdrop.training.fit import FoldJob, claim_member, train_member

    with join() as distributed, ExitStack() as stack:
        known = distributed.broadcast(find_member(key) if searched and not alone and distributed.is_main else None)
        if known:
            return TrainRecord(address=known, member=open_member(known).record, reused=True)
        remote = storage.is_remote(target)
        folder = storage.cache_folder() / "training" / key if remote else Path(target)
        store = CheckpointStore(folder / CHECKPOINTS, f"{target}/{CHECKPOINTS}" if remote else None)
        damage: dict[str, list[str]] = {}
        if distributed.is_main:
            probe(target)
            for place in {target, str(folder)}:
                stack.enter_context(hold(place, STEP if spec.fold is not None else "distill"))
            needed = NEEDED if spec.fold is not None else (*NEEDED, ONNX)
            damage = _repair({target, str(folder)}, None if fresh else key, needed)
            _discard(target, folder, store) if fresh else _fetch(target, folder, key)
        distributed.barrier()
        reused = _finished(folder, store, key)
        for place, faults in damage.items():
            log(f"{'Copying' if reused else 'Training'} the member in {place} again: {', '.join(faults)}")
        copied = remote and not fresh and storage.exists(f"{target}/{RECORD}")
        claim = claim_member(target) if remote and distributed.is_main and not copied else None

        def work(show: "Show | None" = None) -> Member:
            return read_member(folder) if reused else train_member(FoldJob(spec, folder, store, distributed), show)

        if enabled():
            address = _follow(work, spec, fresh, folder, distributed)
        else:
            work()
            address = target if remote else str(folder)
        if claim:
            claim.copy(folder)
        if distributed.is_main:
            store.clear()  # the member is written wherever it belongs
        return TrainRecord(address=address, member=read_member(folder).record, reused=reused)


def reuse(data: str, plan: str, recipe: str, fold: int) -> TrainRecord:
    """The finished member that `train` would reuse: never trains.

    Args:
        data: the dataset.
        plan: its fold plan.
        recipe: a shipped recipe's name, or a YAML file's path.
        fold: the fold to leave out.

    Raises:
        MemberError: if there is none in MLflow.
        PlanError: if the plan belongs to other data, or has no such fold.
        TrackingError: if MLflow can't be reached.
    """
    chosen, folds = find_recipe(recipe), read_plan(plan)
    dataset = open_dataset(data)
    known = find_member(MemberSpec(dataset, folds, verify(folds, dataset), chosen, fold).key)
    if known is None:
        what = f"Member {chosen.name}-{fold} was in MLflow when this run was planned, and isn't any more"
        raise MemberError(what, "Start the run again: it trains the member")
    return TrainRecord(address=known, member=open_member(known).record, reused=True)


def _follow(
    work: "Callable[[Show | None], Member]",
    spec: MemberSpec,
    fresh: bool,
    folder: Path,
    distributed: "Distributed",
) -> str:
    """Trains within an MLflow run that shows each epoch, and returns the member's address."""
    if not distributed.is_main:
        work(None)
        return distributed.broadcast("")
    from backdrop.tracking.runs import MemberRun  # slow: imports mlflow

    with MemberRun(spec.key, spec.recipe, spec.fold, fresh) as run:
        run.follow(folder / METRICS)
        return distributed.broadcast(run.finish(work(run.show).folder))


def _repair(places: Collection[str], key: str | None, needed: Collection[str]) -> dict[str, list[str]]:
    """Makes a damaged member unfinished, wherever it lies, so that it can be copied or trained again.

    Args:
        places: the member's folders.
        key: its content key; None for any member's.
        needed: the files without which it is of no use.

    Returns:
        What is wrong with each damaged one.

    Raises:
        MemberError: if another member is there.
    """
    for record in (f"{place}/{RECORD}" for place in places):
        if key and storage.exists(record) and _key(storage.read_bytes(record)) not in (key, None):
            raise _other(storage.parent(record))
    damage = {place: repair(place, STEP, needed) for place in places}
    return {place: faults for place, faults in damage.items() if faults}


def _finished(folder: Path, store: "CheckpointStore", key: str) -> bool:
    """Whether the folder holds this member already.

    Raises:
        MemberError: if it holds another one, finished or not.
    """
    finished = (folder / RECORD).is_file()
    if finished:
        known = _key(storage.read_bytes(folder / RECORD))
    else:
        checkpoint = store.read()
        known = checkpoint.progress.key if checkpoint else key
    if known != key:
        raise _other(folder)
    return finished


def _fetch(target: str, folder: Path, key: str) -> None:
    """Copies a finished member from S3 into the cache, if it's there and not yet here; its record comes last.

    Raises:
        MemberError: if another one is there.
    """
    if not storage.is_remote(target) or not storage.exists(f"{target}/{RECORD}"):
        return
    record = storage.read_bytes(f"{target}/{RECORD}")
    if _key(record) != key:
        raise _other(target)
    if not (folder / RECORD).is_file():
        names = [name for name in storage.list_files(target) if name.startswith(f"{SAMPLES}/") or name in FETCHED]
        claim = Claim(folder, STEP, RECORD)
        claim.write({name: storage.read_bytes(f"{target}/{name}") for name in names} | {RECORD: record})
        claim.seal()


def _key(record: bytes) -> str | None:
    """The content key in a member's record; None if it's no record."""
    try:
        return str(parse_json(record)["key"])
    except (ValueError, TypeError, LookupError):
        return None


def _other(place: Path | str) -> MemberError:
    return MemberError(f"{place} holds a member of other data or settings", "Use another --out, or delete it")


def _discard(target: str, folder: Path, store: "CheckpointStore") -> None:
    """Removes what an earlier run wrote, and says so."""
    names = store.names()
    if (folder / RECORD).is_file() or names:
        said = f"the training at epoch-step {max(names)}" if names else "the finished member"
        log(f"Discarding {said} in {target}")
    for place in {target, str(folder)}:
        Claim(place, STEP, RECORD).clear()
    store.clear()
