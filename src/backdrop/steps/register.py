"""`register`: makes an evaluated ensemble a version in the registry, and the challenger."""

import json
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path

from backdrop.common import storage
from backdrop.common.errors import ConfigError, MemberError, PlanError, StorageError
from backdrop.common.progress import working
from backdrop.config import Ensemble, find_ensemble
from backdrop.config.folds import PLAN
from backdrop.config.records import Record, dump_yaml, parse, parse_yaml, read_text
from backdrop.data.dataset import Dataset, Digests, open_dataset
from backdrop.data.folds import FoldPlan, dump_plan, plans_digest, read_plans, verify
from backdrop.data.metadata import METADATA, read_license, read_metadata
from backdrop.data.pseudo_labels import Teacher
from backdrop.evaluation.ablation import ALL
from backdrop.evaluation.examples import choose_worst
from backdrop.evaluation.records import (
    CHAMPION,
    IMAGES,
    METRICS,
    PAGE,
    WORST_SHOWN,
    Evaluation,
    Exit,
    Score,
    read_scores,
    require_scores,
)
from backdrop.evaluation.scoring import Judges, judges
from backdrop.inference.ensemble import EnsembleModel, gather, write_ensemble
from backdrop.inference.member import Member, verify_member
from backdrop.report import exit_text
from backdrop.steps.members import open_member
from backdrop.tracking import evaluations, registry
from backdrop.tracking.evaluations import FIXED, Findings
from backdrop.tracking.members import find_run
from backdrop.tracking.model_card import Facts
from backdrop.tracking.students import student_name
from backdrop.tracking.version_files import ENSEMBLE, ensemble_digest, is_whole, members_digest

Metadata = Mapping[str, Mapping[str, str]]  # of each object, its value in each column


class Registration(Record):
    """The ensemble's version, whether it is new, and the run of its evaluation."""

    name: str
    version: int
    created: bool
    run_id: str


@working("registering")
def register(
    data: str, plan: str | Sequence[str], members: Sequence[str], report: str, ensemble: str, name: str
) -> Registration:
    """Registers an ensemble with its evaluation; an existing version or run is reused.

    Args:
        data: the dataset.
        plan: the members' fold plan; if the ensemble's recipes use several schemes, a plan for each, the ensemble's own
            first and the others in the order of its YAML.
        members: their addresses.
        report: the folder that `evaluate` wrote for exactly these members.
        ensemble: a shipped ensemble's name, or a YAML file's path.
        name: the registered model.

    Returns:
        The version, which the gate judges next.

    Raises:
        MemberError: if a member doesn't belong to this ensemble or wasn't trained by its plan, or the report is of
            other members, or of another `metadata.csv` that the gate groups by.
        StorageError: if the report is incomplete, or its `images.csv` was changed.
        PlanError: if a plan belongs to other data, has another holdout than the first, or is missing.
        DataError: if `metadata.csv` lacks what the ensemble's gate groups by.
        ConfigError: if the ensemble isn't valid, or has post-processing that isn't shown to help, or a student isn't
            alone or has another name than its teacher's with `-student`.
        TrackingError: if MLflow can't be reached.
    """
    asked = find_ensemble(ensemble)
    opened = [open_member(address) for address in members]
    pages = storage.local_folder(report)
    evaluation = _read_report(pages)
    exit_rule = evaluation.early_exit.rule if evaluation.early_exit else None
    config = asked.learned(exit_rule, evaluation.predicted_dice.rule if evaluation.predicted_dice else None)
    model, teacher = gather(opened, config), _teacher(opened, name)
    plans = _match(read_plans(plan), config)
    own, dataset = plans[PLAN], open_dataset(data)
    digests, metadata = verify(own, dataset), _metadata(dataset, own, config)
    _verify(model, config, plans, digests)
    _verify_report(pages, evaluation, list(plans.values()), judges(list(plans.values()), digests, model), model)
    _verify_metadata(pages, metadata, config.gate.metadata_columns)
    _verify_exit(pages, evaluation, asked)
    facts = _facts(config, own, evaluation, read_scores(pages / IMAGES), len(opened))
    findings = Findings(
        config=config,
        members={member.name: address for member, address in zip(opened, members, strict=True)},
        plans={name: dump_plan(one) for name, one in plans.items()},
        metadata=_dump_metadata(metadata),
        data=data,
        data_digest=own.data,
        report=pages,
        evaluation=evaluation,
        facts=facts.model_copy(update={"data_license": read_license(data), "teacher": teacher}),
        runs=[run for member, address in zip(opened, members, strict=True) if (run := _run(member, address))],
    )
    return _register(name, asked, model.members, findings)


def find_registration(
    data: str, plan: Sequence[str], members: Sequence[Member], ensemble: Ensemble, name: str
) -> Registration | None:
    """The registration that `register` would find whole for these members; None if there is none.

    Args:
        data: the dataset.
        plan: as for `register`.
        members: all of the ensemble's.
        ensemble: resolved, with the schedules that its members were trained by.
        name: the registered model.

    Raises:
        DataError: if `metadata.csv` lacks what the ensemble's gate groups by.
        TrackingError: if MLflow can't be reached.
    """
    plans = _match(read_plans(plan), ensemble)
    metadata = _dump_metadata(_metadata(open_dataset(data), plans[PLAN], ensemble))
    texts = {file: dump_plan(one) for file, one in plans.items()}
    ordered = gather(members, ensemble).members
    run_id = evaluations.find_evaluation(_digest(ensemble, ordered), texts, metadata)
    versions = registry.find_versions(name, _digest(evaluations.fetch_ensemble(run_id), ordered)) if run_id else []
    if not run_id or not versions or versions[0].evaluation_run != run_id or not is_whole(versions[0]):
        return None
    return Registration(name=name, version=versions[0].version, created=False, run_id=run_id)


def _teacher(members: Sequence[Member], name: str) -> Teacher | None:
    """The version that taught the only member; None if it is no student."""
    teachers = [member.record.teacher for member in members if member.record.teacher]
    if not teachers:
        return None
    if len(members) > 1:
        raise ConfigError("A student is no member of an ensemble", "Register it alone")
    due = student_name(teachers[0])
    if name != due:
        raise ConfigError(f"{teachers[0].address} taught the student, so its model is {due}", f"Use --name {due}")
    return teachers[0]


def _match(plans: Sequence[FoldPlan], config: Ensemble) -> dict[str, FoldPlan]:
    """The plans by their file names in the ensemble."""
    names = list(config.plans().values())
    if len(plans) != len(names):
        what = f"Ensemble {config.name} needs as many plans as it has fold schemes, {len(names)}, not {len(plans)}"
        raise PlanError(what, f"Name a --plan for each, in this order: {', '.join(names)}")
    return dict(zip(names, plans, strict=True))


def _metadata(dataset: Dataset, plan: FoldPlan, config: Ensemble) -> Metadata:
    """What `metadata.csv` says of the plan's objects that the gate groups by."""
    found = read_metadata(dataset.root, config.gate.metadata_columns)
    return {name: found[name] for name in sorted(plan.assignment()) if found.get(name)}


def _dump_metadata(metadata: Metadata) -> bytes:
    return json.dumps(metadata, sort_keys=True).encode() if metadata else b""


def _verify(model: EnsembleModel, config: Ensemble, plans: Mapping[str, FoldPlan], digests: Digests) -> None:
    """Verifies that each member was trained by the plan of its recipe's scheme."""
    names = config.plans()
    expected = {part.resolve().name: plans[names[config.rule(part)]] for part in config.parts()}
    for member in model.members:
        verify_member(member, expected[member.record.recipe], digests)


def _read_report(folder: Path) -> Evaluation:
    """The evaluation, after verifying that its files belong together."""
    for name in (PAGE, *FIXED):
        if not (folder / name).is_file():
            raise StorageError(f"{folder} isn't a report (it has no {name})", "Make one with `backdrop evaluate`")
    evaluation = parse(Evaluation, parse_yaml(read_text(folder / METRICS, "report"), METRICS), str(folder / METRICS))
    require_scores(folder / IMAGES, evaluation.scores)
    if evaluation.champion:
        require_scores(folder / CHAMPION, evaluation.champion.scores)
    return evaluation


def _verify_report(
    report: Path, evaluation: Evaluation, plans: Sequence[FoldPlan], who: Judges, model: EnsembleModel
) -> None:
    """Verifies that the evaluation is of this ensemble and these plans, and that post-processing helps."""
    scored = {(score.image, score.fold, score.area) for score in read_scores(report / IMAGES)}
    due = {(row.image, row.fold, row.area) for row in who}
    if scored != due or (evaluation.model, evaluation.plans) != (model.digest(), plans_digest(plans)):
        raise MemberError(f"{report} is a report of other members or another plan", "Run `backdrop evaluate` again")
    for effect in evaluation.repair:
        if effect.operation != ALL and effect.verdict != "helps":
            what = (
                f"Out of fold, {effect.operation} isn't shown to help ({effect.verdict}: {effect.difference:+.5f} Dice)"
            )
            raise ConfigError(what, "Leave it out of the ensemble's postprocessing, and evaluate again")


def _verify_metadata(report: Path, metadata: Metadata, columns: Sequence[str]) -> None:
    for score in read_scores(report / IMAGES):
        groups = {name: value for name, value in score.traits.items() if name in columns}
        if groups != metadata.get(score.object, {}):
            what = f"{report} groups {score.object} otherwise than {METADATA} does now"
            raise MemberError(what, "Run `backdrop evaluate` again")


def _verify_exit(report: Path, evaluation: Evaluation, asked: Ensemble) -> None:
    learned, wanted = evaluation.early_exit, asked.early_exit
    if (learned and learned.max_loss) != (wanted and wanted.max_loss):
        what = f"{report} is a report of an ensemble with another early_exit than {asked.name}'s"
        raise MemberError(what, "Run `backdrop evaluate` again, with this --ensemble")


def _facts(config: Ensemble, plan: FoldPlan, evaluation: Evaluation, scores: Sequence[Score], members: int) -> Facts:
    """What the version's card says."""
    held, score = plan.holdout, evaluation.holdout.ensemble
    return Facts(
        ensemble=config.name,
        description=config.description,
        license=config.license,
        members=members,
        data=plan.data,
        objects=len({row.object for row in plan.rows}),
        photographs=len(plan.rows),
        holdout_objects=len({row.object for row in held}),
        holdout_photographs=len(held),
        dice=score.dice if score else None,
        low=score.low if score else None,
        high=score.high if score else None,
        early_exit=_exit(evaluation.early_exit),
        worst={one.image: one.dice for one in choose_worst(scores)[:WORST_SHOWN]},
    )


def _exit(learned: Exit | None) -> str:
    if learned is None or learned.rule is None:
        return ""
    saving, where = (learned.holdout, "the holdout") if learned.holdout else (learned.oof, "photographs out of fold")
    saves = f"saves {100 * saving.saved.mean:.0f} % of the multiply-accumulates and loses {saving.lost.mean:+.5f} Dice"
    return f"{exit_text(learned)} On {where}, this {saves}."


def _run(member: Member, address: str) -> str | None:
    """The address of a member's run; None if MLflow has none."""
    return address if address.startswith("runs:/") else find_run(member.record.key)


def _register(name: str, asked: Ensemble, members: Sequence[Member], findings: Findings) -> Registration:
    digest = _digest(asked, members)
    known = evaluations.find_evaluation(digest, findings.plans, findings.metadata)
    run_id = known or evaluations.log_evaluation(digest, findings)
    if findings.evaluation.champion:
        evaluations.log_champion_scores(run_id, findings.evaluation.champion.digest, findings.report / CHAMPION)
    facts = findings.facts.model_copy(update={"evaluation": run_id})
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / ENSEMBLE
        write_ensemble(folder, evaluations.fetch_ensemble(run_id), members)
        version, created = registry.register(name, folder, ensemble_digest(folder), facts)
    return Registration(name=name, version=version.version, created=created, run_id=run_id)


def _digest(config: Ensemble, members: Sequence[Member]) -> str:
    """The digest of an ensemble of these members; an evaluation's is of what was asked, before an early exit's rule."""
    return members_digest(storage.sha256(dump_yaml(config).encode()), members)
