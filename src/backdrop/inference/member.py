"""The member folder: its files, its record, and how to read it."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.errors import REMEDIES, BackdropError, MemberError, is_out_of_memory, shorten
from backdrop.common.text import parse_json
from backdrop.config import Recipe
from backdrop.config import digest as recipe_digest
from backdrop.config.legacy import Legacy
from backdrop.config.patterns import NAME
from backdrop.config.records import Record, parse, parse_yaml, read_text
from backdrop.data.dataset import Dataset, Digests, file_digest
from backdrop.data.digests import dataset_digest
from backdrop.data.folds import FoldPlan, Row
from backdrop.data.pseudo_labels import PseudoLabels, Teacher

if TYPE_CHECKING:  # torch's import takes seconds: only where a network is made
    from torch import Tensor, nn

STEP = "train"  # that writes member folders
RECORD = "member.json"
RECIPE = "recipe.yaml"
WEIGHTS = "weights.safetensors"
ONNX = "network.onnx"  # only a student's
METRICS = "metrics.jsonl"
CURVES = "curves.png"
SAMPLES = "samples"
CHECKPOINTS = "checkpoints"
CONFIG = "ensemble.yaml"  # an ensemble's, beside the folder of its members
MEMBERS = "members"
NO_LABELS = PseudoLabels()


class MemberRecord(Record):
    """`member.json`: what was trained, how, and its score.

    `key` is the content key; `dice` the member's out-of-fold Dice at the photographs' own size; `selected_epoch` the
    best epoch (the best of several, with snapshots); `resumed_at` the steps at which a killed run resumed; `weights`
    the sha256 of the weights file, `settings` that of `recipe.yaml`; `version` the package's version; `pseudo` the
    digest of the pseudo-labeled photographs, empty without any, and `pseudo_objects` the objects on them that the plan
    doesn't place. `threads`, `processes`, `device` and `precision` describe the computation: with others, the weights
    differ in their last bits.

    A student has trained on all folds' soft masks: its `fold` is None, `teacher` the model that made them, `dice` that
    on one photograph of each object that it trained on, and `onnx` the sha256 of its network as an ONNX graph.
    """

    key: str
    recipe: str = Field(pattern=NAME)
    fold: int | None
    seed: int
    epochs: int
    selected_epoch: int
    dice: float
    seconds: float
    parameters: int
    resumed_at: tuple[int, ...]
    weights: str
    settings: str
    version: str
    threads: int
    processes: int
    device: str
    precision: str
    pseudo: str = ""
    pseudo_objects: tuple[str, ...] = ()
    teacher: Teacher | None = None
    onnx: str = ""


@dataclass(frozen=True)
class Member:
    """A finished member."""

    folder: Path
    record: MemberRecord
    recipe: Recipe
    is_in_memory: ClassVar[bool] = False

    @property
    def name(self) -> str:
        """`<recipe>-<fold>`; without a fold, the recipe's."""
        return member_name(self.record.recipe, self.record.fold)

    def network(self) -> "nn.Module":
        """The trained network on the CPU, as `assemble` makes it; a student's is run by onnxruntime.

        Raises:
            ConfigError: if it is a student, and onnxruntime isn't installed.
            MemberError: if the weights aren't those of the recipe's network.
        """
        if self.record.onnx:
            from backdrop.inference.onnx import OnnxNetwork

            return OnnxNetwork(self.folder / ONNX)
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        path = self.folder / WEIGHTS
        try:
            return assemble(self.recipe, load_file(path))
        except (SafetensorError, OSError, RuntimeError, IndexError) as error:
            if is_out_of_memory(error):
                raise
            what = f"{storage.origin(path)} doesn't fit its recipe ({shorten(error)})"
            raise MemberError(what, "Copy or train the member again") from error

    def history(self) -> list[dict[str, Any]]:
        """A row per epoch: epoch, lr, loss, dice, seconds, time_ms.

        Raises:
            MemberError: if the file can't be read.
        """
        path = self.folder / METRICS
        try:
            return [dict(parse_json(line)) for line in path.read_text(encoding="utf-8").splitlines()]
        except (OSError, ValueError, TypeError) as error:
            what = f"{storage.origin(path)} is damaged ({shorten(error)})"
            raise MemberError(what, "Copy or train the member again") from error


def member_name(recipe: str, fold: int | None) -> str:
    """The name of a recipe's member of a fold."""
    return recipe if fold is None else f"{recipe}-{fold}"


def assemble(recipe: Recipe, weights: "dict[str, Tensor]") -> "nn.Module":
    """The network with these weights, to predict with; a `SnapshotEnsemble` if the recipe keeps snapshots.

    Its batch norms are folded into its convolutions, unless the recipe asks for the behavior of 2017.
    """
    import torch

    from backdrop.models import build
    from backdrop.models.folding import fold_batch_norms
    from backdrop.models.snapshot_ensemble import SnapshotEnsemble

    with torch.device("meta"):  # no time is spent on random weights
        if recipe.snapshots:
            count = len({name.split(".")[1] for name in weights})
            network: nn.Module = SnapshotEnsemble(build(**recipe.network_options()) for _ in range(count))
        else:
            network = build(**recipe.network_options())
    network.load_state_dict(weights, assign=True)
    network.eval()
    if recipe.legacy == Legacy():
        fold_batch_norms(network)
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # torch's stubs lack it
    return network


def content_key(
    recipe: Recipe, plan: FoldPlan, digests: Digests, fold: int | None, pseudo: str = "", version: str = __version__
) -> str:
    """sha256 of everything that determines a member: recipe (with seed), images and masks, fold, package version.

    It includes the fold's own images, which select the epoch, and the digest of pseudo-labeled ones.
    """

    def part(rows: Sequence[Row]) -> str:
        return dataset_digest({row.image: digests[row.image] for row in rows})

    parts = [recipe_digest(recipe), part(plan.training(fold)), part(plan.validation(fold)), fold, version]
    parts += [pseudo] if pseudo else []
    return storage.sha256(json.dumps(parts).encode())


@dataclass(frozen=True)
class MemberSpec:
    """What determines a member: a recipe that trains on all folds of a plan but one, or a student on all soft masks.

    Attributes:
        dataset: the photographs.
        plan: assigns photographs to folds.
        digests: sha256 of the plan's images and masks.
        recipe: what to train.
        fold: the fold that is left out for validation; None for a student.
        pseudo: photographs with predicted masks to train on as well; a student trains on nothing else.
    """

    dataset: Dataset
    plan: FoldPlan
    digests: Digests
    recipe: Recipe
    fold: int | None
    pseudo: PseudoLabels = NO_LABELS

    @cached_property
    def key(self) -> str:
        """The member's content key."""
        return content_key(self.recipe, self.plan, self.digests, self.fold, self.pseudo.digest)


def read_member(folder: Path) -> Member:
    """Reads a finished member and verifies its weights.

    Raises:
        MemberError: if it isn't finished, or its files have changed since training.
    """
    name = storage.origin(folder)
    try:
        values = parse_json(storage.read_bytes(folder / RECORD))
        record = parse(MemberRecord, values, f"{name}/{RECORD}")
        text = read_text(folder / RECIPE, "recipe")
        recipe = parse(Recipe, parse_yaml(text, f"{name}/{RECIPE}"), f"{name}/{RECIPE}")
        recorded = {RECIPE: record.settings, WEIGHTS: record.weights, **({ONNX: record.onnx} if record.onnx else {})}
        digests = {file: file_digest(folder / file) for file in recorded}
    except (BackdropError, ValueError) as error:
        if trouble := _trouble(error):
            denied = isinstance(trouble, PermissionError)
            remedy = "Check its permissions" if denied else REMEDIES.get(trouble.errno or 0, "Check its disk")
            raise MemberError(f"{name} can't be used ({shorten(error)})", remedy) from error
        raise MemberError(
            f"{name} is not a finished member ({shorten(error)})",
            "Run its `backdrop train` again, and name the member as that prints it",
        ) from error
    for file, digest in recorded.items():
        if digests[file] != digest:
            raise MemberError(f"{name}/{file} has changed since training", "Copy or train the member again")
    return Member(folder, record, recipe)


def _trouble(error: BaseException | None) -> OSError | None:
    """Why a file that is there can't be read: no permission, too many open files, a disk's fault; None if another."""
    if isinstance(error, OSError) and not isinstance(error, (FileNotFoundError, NotADirectoryError, IsADirectoryError)):
        return error
    return _trouble(error.__cause__) if error else None


def verify_member(member: Member, plan: FoldPlan, digests: Digests) -> None:
    """Verifies that the member trained on exactly the plan's photographs for its fold, so that no data leaks.

    Raises:
        MemberError: if it saw other photographs, masks or folds.
        PlanError: if the plan has no such fold.
    """
    record = member.record
    if content_key(member.recipe, plan, digests, record.fold, record.pseudo, record.version) != record.key:
        raise MemberError(f"Member {member.name} was not trained with this plan on this data", "Train it again")
