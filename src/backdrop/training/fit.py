"""Trains one member, from photographs to its finished folder."""

from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import cv2
from torch import nn

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.devices import device
from backdrop.common.errors import MemberError, StorageError, shorten
from backdrop.common.outputs import Claim, set_changed_aside
from backdrop.common.progress import log, working
from backdrop.config import Recipe
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import read_pair
from backdrop.evaluation.pictures import curves
from backdrop.inference import member as layout
from backdrop.inference.member import Member, MemberRecord, MemberSpec, assemble, read_member
from backdrop.inference.onnx import export
from backdrop.models import build
from backdrop.models.cost import parameters
from backdrop.training.checkpoint import Progress, Weights, save_weights
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.distributed import ALONE, Distributed
from backdrop.training.judging import LeftOut
from backdrop.training.live_pictures import LivePictures, Show, draw
from backdrop.training.pretrained import load_encoder
from backdrop.training.samples import Samples
from backdrop.training.state import State
from backdrop.training.trainer import Trainer, Watch, dump_metrics, first_network

WORST = 4


@dataclass(frozen=True)
class FoldJob:
    """A member to train: what it is, its folder, its checkpoints, and the processes that train together."""

    spec: MemberSpec
    folder: Path
    store: CheckpointStore
    distributed: Distributed = ALONE

    @cached_property
    def judge(self) -> LeftOut:
        """The photographs for validation."""
        spec = self.spec
        return LeftOut(spec.dataset, spec.plan.validation(spec.fold), spec.digests, spec.recipe, self.distributed)


def train_member(job: FoldJob, show: Show | None = None) -> Member:
    """Trains a member, from its newest checkpoint if it has one.

    Args:
        job: what to train.
        show: takes pictures of the training; None for none.

    Raises:
        MemberError: if all checkpoints are damaged.
        TrainingError: if a loss is NaN or infinite.
        StorageError: if the folder can't be written, or holds something else.
        DataError: if a photograph has changed or can't be read.
    """
    recipe, judge = job.spec.recipe, job.judge
    claim = claim_member(job.folder) if job.distributed.is_main else None
    job.store.require()
    job.distributed.barrier()  # no process trains in vain
    state = fit(job, claim, show=show if job.distributed.is_main else None)
    weights = _weights(state, recipe)
    if not weights:
        what = f"{layout.member_name(recipe.name, job.spec.fold)} has no epoch with a valid Dice"
        raise MemberError(what, "Lower its learning rates")
    trained = assemble(recipe, weights).to(device())
    scores = judge.dices(trained, lasting=True)
    if claim:
        with working("writing the member"):
            files = {layout.RECIPE: dump_yaml(recipe).encode(), layout.WEIGHTS: save_weights(weights)}
            if job.spec.pseudo.teacher:
                files[layout.ONNX] = export(assemble(recipe, weights), recipe)
            record = _record(job.spec, state.progress, files, judge.mean(scores))
            claim.write({layout.METRICS: dump_metrics(state), **files})
            pictures: dict[str, bytes] = {}
            try:
                pictures |= _pictures(job, trained, scores, state.progress)
                claim.write(pictures)
            except Exception as error:  # whatever it is, the member is whole without them
                log(f"The curves and sample pictures were not written: {shorten(error)}")
                with suppress(StorageError):
                    claim.remove(pictures)  # they may take the room that the record needs
            claim.write({layout.RECORD: record.model_dump_json(indent=1).encode()})  # marks the member as finished
            claim.seal()
    job.distributed.barrier()
    return read_member(job.folder)


def fit(job: FoldJob, claim: Claim | None, watch: Watch | None = None, show: Show | None = None) -> State:
    """Trains to the last epoch, from a checkpoint if there is one. Used by `train` and by a search.

    Args:
        job: what to train.
        claim: the claim on its folder; None if another process writes there.
        watch: called with the rows of all epochs so far, when training starts and after each epoch.
        show: takes pictures of the training; None for none.

    Raises:
        BackdropError: as `train_member` does.
    """
    spec, recipe, pseudo = job.spec, job.spec.recipe, job.spec.pseudo
    rows = [] if spec.fold is None else spec.plan.training(spec.fold)
    photos = spec.dataset.select(row.image for row in rows)
    samples = Samples(photos, {**spec.digests, **pseudo.digests}, recipe, pseudo.photos, job.distributed)
    network = first_network(recipe)
    if recipe.pretrained:
        load_encoder(network, recipe.pretrained)
    look = LivePictures(spec.dataset, job.judge.rows, spec.digests, recipe, show) if show else None
    trainer = Trainer(recipe, samples, job.judge, claim, job.store, job.distributed, watch, look)
    return trainer.fit(spec.key, network)


def _weights(state: State, recipe: Recipe) -> Weights:
    """The best epoch's weights; with snapshots, those of the best epoch of each cycle."""
    kept = [weights for weights in state.selected if weights]
    if not recipe.snapshots:
        return kept[0] if kept else {}
    return {f"networks.{i}.{name}": tensor for i, weights in enumerate(kept) for name, tensor in weights.items()}


def claim_member(address: str | Path) -> Claim:
    """The claim on a folder to train in, or an `s3://` prefix; what will be written there is tried before.

    Raises:
        StorageError: if something else is there, or it can't be written.
    """
    if kept := set_changed_aside(address, layout.METRICS):
        log(f"{address}/{layout.METRICS} has changed (kept as {kept}) and is written again")
    names = (layout.METRICS, layout.RECIPE, layout.WEIGHTS, layout.ONNX, layout.RECORD)
    return Claim(address, layout.STEP, layout.RECORD, names)


def _record(spec: MemberSpec, progress: Progress, files: Mapping[str, bytes], dice: float) -> MemberRecord:
    recipe, pseudo = spec.recipe, spec.pseudo
    return MemberRecord(
        key=progress.key,
        recipe=recipe.name,
        fold=spec.fold,
        seed=recipe.seed,
        epochs=recipe.epochs,
        selected_epoch=max(progress.selected, key=lambda row: row["dice"])["epoch"],
        dice=dice,
        seconds=round(progress.seconds, 1),
        parameters=parameters(build(**recipe.network_options())),
        resumed_at=tuple(progress.resumed_at),
        weights=storage.sha256(files[layout.WEIGHTS]),
        settings=storage.sha256(files[layout.RECIPE]),
        version=__version__,
        threads=progress.threads,
        processes=progress.processes,
        device=progress.device,
        precision=progress.precision,
        pseudo=pseudo.digest,
        pseudo_objects=tuple(sorted({photo.object for photo in pseudo.photos} - spec.plan.assignment().keys())),
        teacher=pseudo.teacher,
        onnx=storage.sha256(files[layout.ONNX]) if layout.ONNX in files else "",
    )


def _pictures(job: FoldJob, trained: nn.Module, scores: Sequence[float], progress: Progress) -> dict[str, bytes]:
    """The curves, and the photographs with the lowest Dice, by file name."""
    spec, files = job.spec, {layout.CURVES: curves(progress.history)}
    worst = sorted(zip(scores, (row.image for row in job.judge.rows), strict=True))[:WORST]
    for rank, (value, stem) in enumerate(worst, start=1):
        picture = draw(trained, spec.recipe, progress.precision, *read_pair(spec.dataset.photos[stem], spec.digests))
        _, data = cv2.imencode(".png", cv2.cvtColor(picture, cv2.COLOR_RGB2BGR))
        files[f"{layout.SAMPLES}/worst-{rank}-{stem}-{value:.4f}.png"] = data.tobytes()
    return files
