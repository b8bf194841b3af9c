"""One member, from photographs to its finished folder."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from torch import nn

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.devices import device
from backdrop.common.errors import MemberError
from backdrop.common.progress import progress, working
from backdrop.config import Recipe
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import Dataset, Digests, read_chunks, read_pair
from backdrop.data.folds import FoldPlan, Row
from backdrop.data.masks import dice
from backdrop.data.pseudo_labels import PseudoLabels
from backdrop.evaluation.metrics import object_means
from backdrop.evaluation.pictures import curves, panel
from backdrop.inference import member as layout
from backdrop.inference.member import Member, MemberRecord, assemble, read_member
from backdrop.inference.predict import predict_all
from backdrop.models import build
from backdrop.models.cost import parameters
from backdrop.training.checkpoint import Progress, Weights, save_weights
from backdrop.training.checkpoint_store import CheckpointStore
from backdrop.training.distributed import ALONE, Distributed
from backdrop.training.pretrained import load_encoder
from backdrop.training.samples import Samples
from backdrop.training.state import State
from backdrop.training.trainer import Trainer, Watch, first_network

WORST = 4
NO_LABELS = PseudoLabels()


def train_member(
    dataset: Dataset,
    plan: FoldPlan,
    digests: Digests,
    recipe: Recipe,
    fold: int,
    folder: Path,
    key: str,
    store: CheckpointStore,
    pseudo: PseudoLabels = NO_LABELS,
    distributed: Distributed = ALONE,
) -> Member:
    """Trains a recipe on all folds but one, which judges; goes on from a checkpoint if the folder holds one.

    Args:
        dataset: the photographs.
        plan: says which photograph is in which fold.
        digests: of the plan's images and masks.
        recipe: what to train.
        fold: the fold that is left out.
        folder: the member folder.
        key: the member's content key.
        store: of its checkpoints.
        pseudo: photographs with predicted masks that are trained on too.
        distributed: the processes that train it together.

    Raises:
        MemberError: if all checkpoints are damaged.
        TrainingError: if a loss is no number.
        StorageError: if the folder can't be written.
        DataError: if a photograph has changed or can't be read.
    """
    judge = LeftOut(dataset, plan.validation(fold), digests, recipe, distributed)
    state = fit(dataset, plan, recipe, fold, folder, key, store, judge, pseudo)
    weights = _weights(state, recipe)
    if not weights:
        raise MemberError(f"{recipe.name} on fold {fold} never had a Dice that is a number", "Lower its rates")
    trained = assemble(recipe, weights).to(device())
    found = judge.dices(trained, lasting=True)
    if distributed.is_main:
        with working("writing the member"):
            _write_samples(folder, trained, found, dataset, judge.rows, digests, recipe)
            _write(folder, state.progress, weights, recipe, fold, judge.mean(found), pseudo)
    distributed.barrier()
    return read_member(folder)


@dataclass(frozen=True)
class LeftOut:
    """The photographs of the fold that is left out, which say how well a network does; all processes share the work."""

    dataset: Dataset
    rows: Sequence[Row]
    digests: Digests
    recipe: Recipe
    distributed: Distributed = ALONE

    def __call__(self, candidate: nn.Module) -> float:
        """The network's out-of-fold Dice."""
        return self.mean(self.dices(candidate))

    def dices(self, candidate: nn.Module, lasting: bool = False) -> list[float]:
        """The Dice of each photograph; `lasting` says whether a line stays."""
        mine = self.distributed.shard(self.rows)
        with progress("judging photographs", len(mine), lasting and self.distributed.is_main) as advance:
            found = dices(candidate, self.dataset, mine, self.digests, self.recipe, advance)
        return self.distributed.gather(found)

    def mean(self, found: Sequence[float]) -> float:
        """The mean over objects, so that one with fewer views counts as much as another."""
        means = object_means((row.object, value) for row, value in zip(self.rows, found, strict=True))
        return sum(means.values()) / len(means)


def fit(
    dataset: Dataset,
    plan: FoldPlan,
    recipe: Recipe,
    fold: int,
    folder: Path,
    key: str,
    store: CheckpointStore,
    judge: LeftOut,
    pseudo: PseudoLabels = NO_LABELS,
    watch: Watch | None = None,
) -> State:
    """Trains to the last epoch, from a checkpoint if there is one: what `train` and a search have in common.

    Arguments and errors are those of `train_member`; `judge` judges each epoch, and `watch` is told their rows.
    """
    photos = dataset.select(row.image for row in plan.training(fold))
    digests, distributed = {**judge.digests, **pseudo.digests}, judge.distributed
    samples = Samples(photos, digests, recipe, pseudo.photos, distributed)
    network = first_network(recipe)
    if recipe.pretrained:
        load_encoder(network, recipe.pretrained)
    return Trainer(recipe, samples, judge, folder, store, distributed, watch).fit(key, network)


def dices(
    network: nn.Module,
    dataset: Dataset,
    rows: Sequence[Row],
    digests: Digests,
    recipe: Recipe,
    advance: Callable[[], None] = lambda: None,
) -> list[float]:
    """Dice of each photograph at its own size; `advance` is called for each."""
    found: list[float] = []
    for pairs in read_chunks(dataset.select(row.image for row in rows), digests):
        probabilities = predict_all(
            network, [image for image, _ in pairs], recipe.input, recipe.tta, recipe.legacy.output_align_corners
        )
        for probability, (_, truth) in zip(probabilities, pairs, strict=True):
            found.append(dice((probability > 0.5).cpu().numpy(), truth))
            advance()
    return found


def _weights(state: State, recipe: Recipe) -> Weights:
    """The best epoch's weights, or a snapshot_ensemble's of each cycle's best."""
    kept = [weights for weights in state.selected if weights]
    if not recipe.snapshots:
        return kept[0] if kept else {}
    return {f"networks.{i}.{name}": tensor for i, weights in enumerate(kept) for name, tensor in weights.items()}


def _write(
    folder: Path, progress: Progress, weights: Weights, recipe: Recipe, fold: int, dice: float, pseudo: PseudoLabels
) -> None:
    """The member's files; its record comes last: by that a finished member is known."""
    data = save_weights(weights)
    storage.write_bytes(folder / layout.RECIPE, dump_yaml(recipe).encode())
    storage.write_bytes(folder / layout.WEIGHTS, data)
    curves(progress.history, folder / layout.CURVES)
    record = MemberRecord(
        key=progress.key,
        recipe=recipe.name,
        fold=fold,
        seed=recipe.seed,
        epochs=recipe.epochs,
        selected_epoch=max(progress.selected, key=lambda row: row["dice"])["epoch"],
        dice=dice,
        seconds=round(progress.seconds, 1),
        parameters=parameters(build(**recipe.network_options())),
        resumed_at=tuple(progress.resumed_at),
        weights=storage.sha256(data),
        version=__version__,
        threads=progress.threads,
        processes=progress.processes,
        device=progress.device,
        precision=progress.precision,
        pseudo=pseudo.digest,
    )
    storage.write_bytes(folder / layout.RECORD, record.model_dump_json(indent=1).encode())


def _write_samples(
    folder: Path,
    trained: nn.Module,
    found: Sequence[float],
    dataset: Dataset,
    rows: Sequence[Row],
    digests: Digests,
    recipe: Recipe,
) -> None:
    """Pictures of the photographs that the member does worst on."""
    worst = sorted(zip(found, (row.image for row in rows), strict=True))[:WORST]
    for rank, (value, stem) in enumerate(worst, start=1):
        image, truth = read_pair(dataset.photos[stem], digests)
        probability = (
            next(iter(predict_all(trained, [image], recipe.input, recipe.tta, recipe.legacy.output_align_corners)))
            .cpu()
            .numpy()
        )
        picture = cv2.cvtColor(panel(image, truth, probability), cv2.COLOR_RGB2BGR)
        _, data = cv2.imencode(".png", np.asarray(picture))
        storage.write_bytes(folder / layout.SAMPLES / f"worst-{rank}-{stem}-{value:.4f}.png", data.tobytes())
