"""`promote`: the gate judges the challenger, which becomes the champion if it is better."""

from collections.abc import Sequence
from dataclasses import dataclass

from backdrop.common.errors import GateError, TrackingError
from backdrop.common.progress import working
from backdrop.common.storage import sha256
from backdrop.common.words import count
from backdrop.config import Gate
from backdrop.config.folds import PLAN
from backdrop.config.records import parse, parse_yaml, read_text
from backdrop.data.folds import FoldPlan, dump_plan, read_plan
from backdrop.evaluation.gate import UNFAIR, Verdict, judge, rejected
from backdrop.evaluation.records import IMAGES, METRICS, Evaluation, Score, dump_scores, read_scores
from backdrop.report import Standing
from backdrop.steps.champion import known_objects, predict_scores, recorded_scores, renamed_objects
from backdrop.tracking import evaluations, history, registry, version_page
from backdrop.tracking.ledger import Entry, State
from backdrop.tracking.students import find_teacher
from backdrop.tracking.version_files import Version, check_files

SAME = "it is the champion already"
ITSELF = "the challenger is the champion already; the same model is not better than itself"
SLICES = 100  # kept with a verdict, those with the largest loss
IS_HELD = "the champion is held"
IS_LATER = "another champion reigns since the evaluation"
LATER = "has become the champion since the evaluation, which judged another one; the next run judges again"


class Decision(Verdict):
    """A verdict, and where it stands in the model's history."""

    standing: Standing


@dataclass(frozen=True)
class Case:
    """A challenger and the champion on one holdout, ready for the gate. A student is compared with its teacher.

    Attributes:
        name: the registered model.
        challenger: the version that is judged.
        replaces: the champion's version, which it may replace; None if there is none.
        rival: the version that it is compared with: the champion, or a student's teacher; None if there is none.
        is_student: whether the rival is its teacher.
        plan: the challenger's fold plan.
        scores: the challenger's scores.
        old_scores: the rival's, on the same photographs; None if there is none, or the two can't be compared.
        unfair: why they can't be compared; None if they can.
        gate: the thresholds.
        holdout: names the holdout, so that its earlier comparisons count.
        costs: multiply-accumulates per photograph of challenger and rival; None where unknown.
    """

    name: str
    challenger: Version
    replaces: int | None
    rival: Version | None
    is_student: bool
    plan: FoldPlan
    scores: Sequence[Score]
    old_scores: Sequence[Score] | None
    unfair: str | None
    gate: Gate
    holdout: str
    costs: tuple[float | None, float | None]

    def verdict(self, looks: int) -> Verdict:
        """The gate's verdict, `looks` being the number of earlier comparisons on this holdout."""
        if self.unfair:
            return rejected(UNFAIR, self.unfair, _objects(self.plan))
        verdict = judge(self.scores, self.old_scores, self.gate, looks, self.costs)
        worst = sorted(verdict.slices, key=lambda part: part.difference)[:SLICES]
        reasons = verdict.reasons
        if self.is_student and self.rival:
            reasons = (f"Its teacher, {self.rival.address}, was judged as the champion", *reasons)
        kept = tuple(part for part in verdict.slices if part in worst)
        return verdict.model_copy(update={"slices": kept, "reasons": reasons})

    def decide(self, state: State) -> Entry | None:
        """The entry with the verdict; None if another process has decided the same, or the champion is held now.

        Raises:
            GateError: if the challenger was compared with another champion than the present one.
        """
        made = state.decision(self.challenger.version, self.challenger.evaluation_run, self.replaces)
        if state.hold or _is_rejected(made):
            return None
        if state.champion != self.replaces:
            if made:
                return None
            raise history.overtaken(self.name, state)
        # Judging the same again, after a rollback and a release, isn't a look.
        again = made.verdict.look if made and made.verdict else None
        verdict = self.verdict(again - 1 if again else state.looks(self.holdout))
        return Entry(
            event="promoted" if verdict.outcome == "promoted" else "rejected",
            version=self.challenger.version,
            champion=self.replaces,
            reason=verdict.summary,
            evaluation=self.challenger.evaluation_run,
            holdout=self.holdout,
            digests={
                "ensemble": self.challenger.digest,
                "data": self.plan.data,
                "plan": sha256(dump_plan(self.plan)),
                "scores": sha256(dump_scores(self.scores)),
            },
            verdict=verdict,
        )


@working("judging the challenger")
def promote(data: str, name: str, predict: bool = True) -> Decision:
    """Judges a model's challenger by the gate of its ensemble, and makes it the champion if it passes.

    Both are judged on the holdout of the challenger's plan: the champion by its recorded scores if they are of the
    same photographs, else by being run on them now. A student is judged against the version that taught it, by the same
    rules, whatever student is the champion. The verdict goes into the model's history and onto the version's
    report. What was judged before, by the same scores against the same champion, isn't judged again, and a champion
    that a person holds stays.

    Args:
        data: the dataset that the challenger was evaluated on.
        name: the registered model.
        predict: whether networks may be run. Without, a champion that `evaluate` has not judged, because it is the
            champion only since then, stays: the next run of the pipeline judges again.

    Raises:
        GateError: if there is no challenger, or the champion changed while it was judged.
        PlanError: if `data` isn't what the challenger's plan was made for.
        TrackingError: if MLflow can't be reached, or has lost files of the challenger or of the evaluations.
    """
    history.require_model(name)
    state = history.mirror(name)
    if state.nomination is None:
        raise GateError(f"{name} has no challenger", "Register an ensemble with `backdrop register`")
    challenger = registry.find_number(name, state.nomination.version)
    challenger = challenger.model_copy(update={"evaluation_run": state.nomination.evaluation})
    if state.champion == challenger.version:
        last = state.changes[-1]
        if last.verdict:
            _publish(challenger, last.verdict, _standing(challenger, state, last))
        return _unchanged(challenger, state, SAME, ITSELF)
    made = state.decision(challenger.version, challenger.evaluation_run, state.champion)
    if not is_decided(challenger.version, challenger.evaluation_run, state):
        case = _open(data, name, challenger, state, predict)
        if case is None:
            return _unchanged(challenger, state, IS_LATER, f"models:/{name}/{state.champion} {LATER}")
        try:
            state = history.record(name, case.decide)
        except GateError as error:
            if predict:
                raise
            reason = f"{error.what}; the next run judges again"
            return _unchanged(challenger, history.read(name).state, IS_LATER, reason)
        made = state.decision(challenger.version, challenger.evaluation_run, case.replaces)
    if state.hold:
        held = _unchanged(challenger, state, IS_HELD, _held(name, state.hold))
        if evaluations.find_verdict(challenger.evaluation_run) is None:
            evaluations.log_verdict(challenger.evaluation_run, held, held.standing)
        return held
    assert made is not None  # it was decided now, or before
    assert made.verdict is not None
    standing = _standing(challenger, state, made)
    _publish(challenger, made.verdict, standing)
    return Decision(**dict(made.verdict), standing=standing)


def is_decided(challenger: int, evaluation: str, state: State) -> bool:
    """Whether the gate has nothing to decide about a version: it is the champion, held off, or rejected.

    Args:
        challenger: the version.
        evaluation: the run of its evaluation.
        state: the present one.
    """
    made = state.decision(challenger, evaluation, state.champion)
    return state.champion == challenger or state.hold is not None or _is_rejected(made)


def override(name: str, version: int, reason: str) -> Version:
    """Makes a version the champion because a person says so, whatever the gate says.

    Args:
        name: the registered model.
        version: one of its versions.
        reason: stands in the history beside the person's name.

    Raises:
        GateError: if there is no reason, or somebody else changed the champion meanwhile.
        TrackingError: if there is no such version, or MLflow can't be reached.
    """
    if not reason.strip():
        raise GateError("An override needs a reason", "Give it with --reason")
    chosen = registry.find_number(name, version)
    check_files(chosen)

    def appoint(state: State) -> Entry | None:
        if state.champion == version:
            return None
        return Entry(event="promoted", version=version, champion=state.champion, reason=f"override: {reason}")

    history.decide(name, appoint)
    return chosen


def _open(data: str, name: str, challenger: Version, state: State, predict: bool) -> Case | None:
    """Gathers what the gate needs; if the champion's scores aren't recorded, runs it, or returns None."""
    check_files(challenger)
    teacher = find_teacher(name, challenger.version, state)
    rival = teacher or (registry.find_number(name, state.champion) if state.champion else None)
    folder = evaluations.fetch_evaluation(challenger.evaluation_run)
    plan = read_plan(folder / PLAN)
    unfair = _leak(plan, challenger, rival) if rival else None
    old_scores = None
    if rival and not unfair:
        old_scores = recorded_scores(plan, rival, challenger.evaluation_run)
        if old_scores is None and not predict:
            return None
        old_scores = old_scores or predict_scores(data, plan, rival)
    return Case(
        name=name,
        challenger=challenger,
        replaces=state.champion,
        rival=rival,
        is_student=teacher is not None,
        plan=plan,
        scores=read_scores(folder / IMAGES),
        old_scores=old_scores,
        unfair=unfair,
        gate=evaluations.read_ensemble(folder).gate,
        holdout=_holdout(plan, state),
        costs=(_cost(challenger), _cost(rival) if rival else None),
    )


def _holdout(plan: FoldPlan, state: State) -> str:
    """The name of a plan's holdout: that of an earlier one with which it shares an object, or else a new one."""
    objects = {row.object for row in plan.holdout}
    earlier = {entry.holdout: entry.evaluation for entry in state.judged if entry.holdout}
    for holdout, evaluation in reversed(earlier.items()):
        try:
            rows = read_plan(evaluations.fetch_evaluation(evaluation) / PLAN).holdout
        except TrackingError:  # its files are gone: what can't be told apart counts as the same
            return holdout
        if objects & {row.object for row in rows}:
            return holdout
    return sha256("\n".join(sorted(objects)).encode())[:16]


def _cost(version: Version) -> int | None:
    text = read_text(evaluations.fetch_evaluation(version.evaluation_run) / METRICS, "report")
    return parse(Evaluation, parse_yaml(text, METRICS), METRICS).cost


def _is_rejected(made: Entry | None) -> bool:
    """Whether the gate rejected it; what it promoted, and people rolled back and released, it judges again."""
    return made is not None and made.event == "rejected"


def _unchanged(challenger: Version, state: State, why: str, reason: str) -> Decision:
    plan = read_plan(evaluations.fetch_evaluation(challenger.evaluation_run) / PLAN)
    hold = state.hold if state.champion != challenger.version else None
    standing = Standing(
        version=challenger.address,
        champion=_address(challenger, state.champion),
        rival=None,
        time=(hold or state.changes[-1]).time,
        is_held=hold is not None,
        page=version_page(challenger.name, challenger.version),
    )
    objects = _objects(plan)
    return Decision(outcome="unchanged", summary=why, reasons=(reason,), objects=objects, standing=standing)


def _standing(challenger: Version, state: State, made: Entry) -> Standing:
    """Where a decision of the gate's stands in the history."""
    champion = _address(challenger, made.champion)
    teacher = find_teacher(challenger.name, challenger.version, state)
    return Standing(
        version=challenger.address,
        champion=champion,
        rival=teacher.address if teacher else champion,
        time=made.time,
        page=version_page(challenger.name, challenger.version),
    )


def _address(challenger: Version, number: int | None) -> str | None:
    return None if number is None else f"models:/{challenger.name}/{number}"


def _held(name: str, hold: Entry) -> str:
    reason = f" ({hold.reason})" if hold.reason else ""
    return f"{hold.actor} has held the champion since {hold.time}{reason}; `backdrop release {name}` ends it"


def _leak(plan: FoldPlan, challenger: Version, champion: Version) -> str | None:
    """Why the champion can't be judged on the challenger's holdout; None if it can."""
    known = known_objects(plan, champion)
    renamed = {} if known else renamed_objects(challenger, champion)
    if not known and not renamed:
        return None
    such = known[0] if known else "{}, which was {}".format(*min(renamed.items()))
    held = f"{count(len(known or renamed), 'object')} of the challenger's holdout"
    return (
        f"the champion's folds hold {held}, such as {such}, so that comparing the two would not be fair; "
        f"{'rename it back, and ' if renamed else ''}split with --extend models:/NAME@champion to keep every object's "
        f"place"
    )


def _objects(plan: FoldPlan) -> int:
    return len({row.object for row in plan.holdout})


def _publish(challenger: Version, verdict: Verdict, standing: Standing) -> None:
    """Writes a verdict onto the version's tag and report, unless it stands there."""
    registry.set_verdict(challenger, verdict)  # of this model alone: another may share the evaluation
    if evaluations.find_verdict(challenger.evaluation_run) != verdict:
        evaluations.log_verdict(challenger.evaluation_run, verdict, standing)
