"""The champion's scores on a challenger's holdout: recorded ones, or new ones by its networks."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from backdrop.common.errors import BackdropError
from backdrop.common.progress import log, working
from backdrop.common.storage import sha256
from backdrop.config.folds import PLAN
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import HOLDOUT, FoldPlan, read_plan, verify
from backdrop.evaluation.records import IMAGES, Opponent, Score, dump_scores, read_scores
from backdrop.evaluation.statistics import find_renamed
from backdrop.tracking import evaluations, registry
from backdrop.tracking.version_files import Version, fetch

if TYPE_CHECKING:
    from backdrop.inference.ensemble import EnsembleModel


@dataclass(frozen=True)
class Champion:
    """A model's champion, and its scores on a challenger's holdout.

    Attributes:
        version: the champion.
        scores: empty if its members know objects of the holdout.
        record: what an evaluation says of it if its networks had to be run.
    """

    version: Version
    scores: Sequence[Score]
    record: Opponent | None

    def networks(self) -> "EnsembleModel | None":
        """Its networks, to draw its masks; None, and a line that says why, if its files can't be had."""
        try:
            return load(self.version)
        except BackdropError as error:
            log(f"The report has no masks of the champion: {error}")
            return None


def find_champion(data: str, plan: FoldPlan, model: str) -> Champion | None:
    """A model's champion, judged on a plan's holdout; None if there is none.

    Raises:
        TrackingError: if MLflow can't be reached, or the champion's files were lost or changed.
        PlanError: if `data` isn't what the plan was made for.
        DataError: if a photograph can't be read.
    """
    version = registry.find_alias(model, "champion")
    if version is None:
        return None
    if known_objects(plan, version):
        return Champion(version, (), None)
    recorded = recorded_scores(plan, version)
    if recorded is not None:
        return Champion(version, recorded, None)
    with working(f"judging the champion, version {version.version}"):
        scores = predict_scores(data, plan, version)
    return Champion(version, scores, Opponent(digest=version.digest, scores=sha256(dump_scores(scores))))


def recorded_scores(plan: FoldPlan, champion: Version, evaluation_run: str | None = None) -> Sequence[Score] | None:
    """The champion's recorded scores on a plan's holdout; None if there are none of the same photographs.

    Args:
        plan: the challenger's.
        champion: the version.
        evaluation_run: the challenger's evaluation, which may have judged the champion, too.

    Raises:
        TrackingError: if MLflow has lost files of the champion's evaluation, or the server doesn't answer.
    """
    own = plan_of(champion)
    if own.data == plan.data and own.holdout == plan.holdout:
        return read_scores(evaluations.fetch_evaluation(champion.evaluation_run) / IMAGES)
    return evaluations.find_champion_scores(evaluation_run, champion.digest) if evaluation_run else None


def predict_scores(data: str, plan: FoldPlan, champion: Version) -> Sequence[Score]:
    """Runs the champion's networks on a plan's holdout.

    Raises:
        TrackingError: if the version's files were lost or changed, or aren't signed as they must be.
        PlanError: if `data` isn't what the plan was made for.
        DataError: if a photograph can't be read.
    """
    from backdrop.evaluation.scoring import score_holdout  # slow: imports torch

    dataset = open_dataset(data)
    return score_holdout(dataset, plan, verify(plan, dataset), load(champion))


def load(version: Version) -> "EnsembleModel":
    """A version, to predict with.

    Raises:
        TrackingError: if the version's files were lost or changed, or aren't signed as they must be.
    """
    from backdrop.inference.batch import keep_networks  # slow: these import torch
    from backdrop.inference.ensemble import load_ensemble

    return keep_networks(load_ensemble(fetch(version)))


def known_objects(plan: FoldPlan, champion: Version) -> list[str]:
    """Objects of the plan's holdout on which the champion's members trained or chose their epochs.

    Those that they know by pseudo-labels alone aren't among them: no mask told the members more than they knew, and if
    having seen the photographs helps, it helps the champion to stay.
    """
    places = plan_of(champion).assignment()
    return sorted({row.object for row in plan.holdout if places.get(row.object) is not None})


def renamed_objects(challenger: Version, champion: Version) -> dict[str, str]:
    """Objects of the challenger's holdout whose photographs the champion's folds hold under another name: that name.

    They are found as far as the champion's members were judged on those photographs out of fold.

    Raises:
        TrackingError: if MLflow has lost an evaluation's statistics, or the server doesn't answer.
        StorageError: if they are damaged.
    """
    held = [row for row in evaluations.fetch_statistics(challenger.evaluation_run) if row.fold == HOLDOUT]
    known = [row for row in evaluations.fetch_statistics(champion.evaluation_run) if row.fold != HOLDOUT]
    return find_renamed(held, known)


def plan_of(version: Version) -> FoldPlan:
    """The fold plan by which a version was evaluated, the ensemble's own."""
    return read_plan(evaluations.fetch_evaluation(version.evaluation_run) / PLAN)
