"""`promote`: the gate judges the challenger, which becomes the champion if it is better."""

import json
from collections.abc import Sequence
from pathlib import Path

from backdrop.common.errors import GateError
from backdrop.common.progress import working
from backdrop.common.words import count
from backdrop.config import Ensemble, Gate
from backdrop.config.folds import PLAN
from backdrop.config.records import parse, parse_yaml, read_text
from backdrop.data.dataset import open_dataset
from backdrop.data.folds import FoldPlan, read_plan, verify
from backdrop.evaluation.gate import UNFAIR, Verdict, judge, rejected
from backdrop.evaluation.metrics import IMAGES, Score, read_scores
from backdrop.evaluation.scoring import score_holdout
from backdrop.inference.ensemble import CONFIG, load_ensemble
from backdrop.tracking import evaluations, registry
from backdrop.tracking.registry import CHALLENGER, CHAMPION, Version

SAME = "it is the champion already"
ITSELF = "the challenger is the champion already; the same model is not better than itself"


@working("judging the challenger")
def promote(data: str, name: str) -> Verdict:
    """Judges a model's challenger by the gate of its ensemble, and makes it the champion if it passes.

    Both are judged on the holdout of the challenger's plan: the champion by its recorded scores if they are of the
    same photographs, else by being run on them now. The verdict is written beside the version and on its report.

    Args:
        data: the dataset that the challenger was evaluated on.
        name: the registered model.

    Raises:
        GateError: if there is no challenger.
        PlanError: if `data` isn't what the challenger's plan was made for.
        TrackingError: if MLflow can't be reached, or has lost files of the challenger or of the evaluations.
    """
    challenger, champion = registry.find_alias(name, CHALLENGER), registry.find_alias(name, CHAMPION)
    if challenger is None:
        raise GateError(f"{name} has no challenger", "Register an ensemble with `backdrop register`")
    registry.check_files(challenger)
    folder = evaluations.fetch_evaluation(challenger.evaluation_run)
    plan, scores = read_plan(folder / PLAN), read_scores(folder / IMAGES)
    if champion and champion.version == challenger.version:
        # Nothing is written, to keep the verdict that made it the champion.
        return Verdict(outcome="unchanged", summary=SAME, reasons=(ITSELF,), objects=_objects(plan))
    known = _known(plan, champion) if champion else []
    if known:
        verdict = rejected(UNFAIR, _leak(known), _objects(plan))
    else:
        verdict = judge(scores, _champion_scores(data, plan, champion) if champion else None, _gate(folder))
    _record(challenger, champion, verdict)
    if verdict.outcome == "promoted":
        registry.set_champion(challenger, champion)
    return verdict


def _known(plan: FoldPlan, champion: Version) -> list[str]:
    """Objects of the plan's holdout on which the champion's members trained or chose their epochs."""
    places = _plan(champion).assignment()
    return sorted({row.object for row in plan.holdout if places.get(row.object) is not None})


def _leak(objects: Sequence[str]) -> str:
    return (
        f"the champion's folds hold {count(len(objects), 'object')} of the challenger's holdout, such as {objects[0]}, "
        f"so that comparing the two would not be fair; split with --extend models:/NAME@champion to keep every object's"
        f" place"
    )


def _champion_scores(data: str, plan: FoldPlan, champion: Version) -> Sequence[Score]:
    """The champion's scores on the plan's holdout: recorded ones of the same photographs, else new ones."""
    recorded = _plan(champion)
    if recorded.data == plan.data and recorded.holdout == plan.holdout:
        return read_scores(evaluations.fetch_evaluation(champion.evaluation_run) / IMAGES)
    dataset = open_dataset(data)
    model = load_ensemble(registry.fetch_version(champion.address))
    return score_holdout(dataset, plan, verify(plan, dataset), model)


def _plan(version: Version) -> FoldPlan:
    return read_plan(evaluations.fetch_evaluation(version.evaluation_run) / PLAN)


def _gate(folder: Path) -> Gate:
    text = read_text(folder / CONFIG, "ensemble")
    return parse(Ensemble, parse_yaml(text, CONFIG), CONFIG).gate


def _objects(plan: FoldPlan) -> int:
    return len({row.object for row in plan.holdout})


def _record(challenger: Version, champion: Version | None, verdict: Verdict) -> None:
    evaluations.log_verdict(challenger.evaluation_run, verdict)
    short = verdict.model_dump(mode="json", exclude={"slices"})
    registry.set_verdict(challenger, json.dumps({"champion": champion.version if champion else None, **short}))
