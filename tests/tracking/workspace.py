"""Members and ensembles so small that they needn't be trained."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from backdrop import __version__
from backdrop.common.storage import sha256
from backdrop.config import Recipe, find_ensemble
from backdrop.config.records import dump_yaml
from backdrop.data.dataset import Digests, open_dataset
from backdrop.data.folds import HOLDOUT, FoldPlan, plans_digest, read_plan, verify
from backdrop.data.metadata import read_metadata
from backdrop.evaluation.metrics import summarize
from backdrop.evaluation.outline import dump_measures
from backdrop.evaluation.records import Score, dump_evaluation, dump_scores
from backdrop.evaluation.statistics import NAMES, Statistics, dump_statistics
from backdrop.inference.ensemble import gather
from backdrop.inference.member import MemberRecord, content_key, read_member
from backdrop.models import build
from backdrop.report import Gallery, Report, render
from backdrop.steps.register import Registration, register

# For tests that take long: by default they run on the embedded store alone.
server_is_thorough = pytest.mark.parametrize(
    "tracked", ["embedded", pytest.param("server", marks=pytest.mark.thorough)], indirect=True
)

HELD = 12  # objects in the holdout: the fewest on which a champion is replaced
START_MS = 1_700_000_000_000
SET = "set: {input.size: 16x16, network.width: 2, network.depth: 1, epochs: 3, seed: SEED}"
ENSEMBLE = f"name: small\nfolds: {{count: 2}}\nmembers:\n  - recipe: tiny\n    {SET}\ngate: {{minimum_dice: 0.9}}\n"


def metrics_line(epoch: int, dice: float = 0.9, time_ms: int | None = None) -> str:
    time_ms = START_MS + 1000 * epoch if time_ms is None else time_ms
    row = {"epoch": epoch, "lr": 1e-3, "loss": 0.3, "dice": dice, "seconds": 1.0, "time_ms": time_ms}
    return json.dumps(row) + "\n"


def write_tables(report: Path, scores: Sequence[Score], data: Path) -> None:
    """What a report of these data has beside its page and `metrics.json`."""
    (report / "images.csv").write_bytes(dump_scores(scores))
    (report / "measures.csv").write_bytes(dump_measures({}))
    rows = [
        Statistics(
            one.image,
            one.object,
            one.view,
            HOLDOUT if one.fold is None else str(one.fold),
            _figures(data / "train" / f"{one.image}.jpg"),
        )
        for one in scores
    ]
    (report / "statistics.csv").write_bytes(dump_statistics(rows))
    (report / "worst.jpg").write_bytes(b"picture")
    (report / "speed.json").write_text("{}\n")


def _figures(photo: Path) -> dict[str, float]:
    """Figures that are equal for equal files alone."""
    random = np.random.default_rng(list(photo.read_bytes()))
    return dict(zip(NAMES, random.random(len(NAMES)).tolist(), strict=True))


def write_member(folder: Path, recipe: Recipe, key: str, fold: int) -> Path:
    """A whole member folder with random weights."""
    (folder / "samples").mkdir(parents=True)
    (folder / "checkpoints").mkdir()
    torch.manual_seed(recipe.seed * 100 + fold)
    save_file(build(**recipe.network_options()).state_dict(), folder / "weights.safetensors")
    (folder / "recipe.yaml").write_text(dump_yaml(recipe))
    (folder / "metrics.jsonl").write_text("".join(metrics_line(epoch) for epoch in range(3)))
    for name in ("curves.png", "samples/worst-1.png", "checkpoints/step-3.ckpt"):
        (folder / name).write_bytes(b"picture")
    record = MemberRecord(
        key=key,
        recipe=recipe.name,
        fold=fold,
        seed=recipe.seed,
        epochs=3,
        selected_epoch=2,
        dice=0.9,
        seconds=1.0,
        parameters=1,
        resumed_at=(),
        weights=sha256((folder / "weights.safetensors").read_bytes()),
        settings=sha256((folder / "recipe.yaml").read_bytes()),
        version=__version__,
        threads=1,
        processes=1,
        device="cpu",
        precision="fp32",
    )
    (folder / "member.json").write_text(record.model_dump_json())
    return folder


@dataclass(frozen=True)
class Workspace:
    """A dataset with its plan, and ensembles of two members that differ by their seed.

    `column` is one of `metadata.csv` that the gate groups by.
    """

    root: Path
    data: Path
    plan: Path
    column: str = ""

    def read(self) -> tuple[FoldPlan, Digests]:
        plan = read_plan(self.plan)
        return plan, verify(plan, open_dataset(self.data))

    def ensemble(self, seed: int) -> Path:
        path = self.root / f"ensemble-{seed}.yaml"
        slices = f", slices: [{self.column}]" if self.column else ""
        path.write_text(ENSEMBLE.replace("SEED", str(seed)).replace("0.9}", f"0.9{slices}}}"))
        return path

    def recipe(self, seed: int) -> Recipe:
        return find_ensemble(str(self.ensemble(seed))).members[0].resolve()

    def members(self, seed: int) -> list[Path]:
        plan, digests = self.read()
        recipe = self.recipe(seed)
        folders = [self.root / f"members-{seed}-{sha256(self.plan.read_bytes())[:6]}" / f"tiny-{k}" for k in (0, 1)]
        for fold, folder in enumerate(folders):
            if not folder.is_dir():
                write_member(folder, recipe, content_key(recipe, plan, digests, fold), fold)
        return folders

    def report(self, dice: float, seed: int = 1) -> Path:
        """What `evaluate` would have written, had the members such a Dice, somewhat different from object to object."""
        folder = self.root / f"report-{dice}-{seed}-{sha256(self.plan.read_bytes())[:6]}"
        folder.mkdir(exist_ok=True)
        rows = read_plan(self.plan).rows
        values = {row.image: dice - 0.001 * (index % 5) for index, row in enumerate(rows)}
        traits = read_metadata(self.data, [self.column] if self.column else [])
        scores = [
            Score(r.image, r.object, r.view, r.area, r.fold, dice, {"tiny": dice}, traits.get(r.object, {}))
            for r, dice in zip(rows, values.values(), strict=True)
        ]
        model = gather([read_member(path) for path in self.members(seed)], find_ensemble(str(self.ensemble(seed))))
        held = {row.image: values[row.image] for row in rows if row.fold is None}
        plans = plans_digest([read_plan(self.plan)])
        evaluation = summarize(scores, {"tiny-0": held, "tiny-1": held}, model.digest(), plans)
        evaluation = evaluation.model_copy(update={"cost": model.cost()})
        (folder / "metrics.json").write_bytes(dump_evaluation(evaluation))
        write_tables(folder, scores, self.data)
        (folder / "index.html").write_text(render(Report("small", "sha256:0", evaluation, scores, {}, [], Gallery())))
        return folder

    def register(self, name: str, seed: int, dice: float, members: list[str] | None = None) -> Registration:
        """Registers the ensemble of a seed, as if its members had this Dice."""
        addresses = members or [str(folder) for folder in self.members(seed)]
        report, ensemble = str(self.report(dice, seed)), str(self.ensemble(seed))
        return register(str(self.data), str(self.plan), addresses, report, ensemble, name)

    def with_plan(self, plan: Path) -> "Workspace":
        return replace(self, plan=plan)
