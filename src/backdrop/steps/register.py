"""`register`: an evaluated ensemble becomes a version in the registry, and the challenger."""

import tempfile
from collections.abc import Sequence
from pathlib import Path

from backdrop import storage
from backdrop.config import Record, parse, parse_yaml, read_text
from backdrop.dataset import open_dataset
from backdrop.ensemble import EnsembleModel, gather, write_ensemble
from backdrop.errors import MemberError, StorageError
from backdrop.evaluation import IMAGES, METRICS, PAGE, Evaluation, read_scores
from backdrop.folds import FoldPlan, read_plan, verify
from backdrop.recipe import find_ensemble
from backdrop.steps.members import open_member
from backdrop.tracking import evaluations, registry
from backdrop.tracking.evaluations import Findings
from backdrop.training.member import Member, verify_member


class Registration(Record):
    """The version that holds the ensemble, whether it was made now, and the run that holds its evaluation."""

    name: str
    version: int
    created: bool
    run_id: str


def register(data: str, plan: str, members: Sequence[str], report: str, ensemble: str, name: str) -> Registration:
    """Registers an ensemble with its evaluation. What is there already is not made again.

    Args:
        data: the dataset.
        plan: the fold plan that the members were trained by.
        members: their addresses.
        report: the folder that `evaluate` wrote for just these members.
        ensemble: a shipped ensemble's name, or a YAML file's path.
        name: of the registered model.

    Returns:
        The version, which bears the alias `challenger` from now on.

    Raises:
        MemberError: if a member is not of this ensemble or wasn't trained by this plan, or the report is of others.
        PlanError: if the plan belongs to other data.
        ConfigError: if the ensemble isn't valid.
        TrackingError: if MLflow can't be reached.
    """
    config = find_ensemble(ensemble)
    opened = [open_member(address) for address in members]
    model = gather(opened, config)
    folds = _verify(data, plan, model.members)
    pages = storage.local_folder(report)
    findings = Findings(
        config=config,
        members={member.name: address for member, address in zip(opened, members, strict=True)},
        plan=storage.read_bytes(plan),
        data=data,
        data_digest=folds.data,
        report=pages,
        evaluation=_read_report(pages, folds, model),
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / registry.ENSEMBLE
        write_ensemble(folder, config, model.members)
        return _register(name, folder, findings)


def _verify(data: str, plan: str, members: Sequence[Member]) -> FoldPlan:
    """The plan, if it is of these data and the members were trained by it."""
    folds = read_plan(plan)
    digests = verify(folds, open_dataset(data))
    for member in members:
        verify_member(member, folds, digests)
    return folds


def _read_report(folder: Path, plan: FoldPlan, model: EnsembleModel) -> Evaluation:
    """The evaluation, if it is of this ensemble by this plan."""
    for name in (PAGE, METRICS, IMAGES):
        if not (folder / name).is_file():
            raise StorageError(f"{folder} is no report (no {name})", "Make one with `backdrop evaluate`")
    evaluation = parse(Evaluation, parse_yaml(read_text(folder / METRICS, "report"), METRICS), str(folder / METRICS))
    scored = {(score.image, score.fold, score.area) for score in read_scores(folder / IMAGES)}
    told = {None, *(member.record.fold for member in model.members)}
    due = {(row.image, row.fold, row.area) for row in plan.rows if row.fold in told}
    if scored != due or evaluation.model != model.digest():
        raise MemberError(f"{folder} is a report of other members or another plan", "Run `backdrop evaluate` again")
    return evaluation


def _register(name: str, folder: Path, findings: Findings) -> Registration:
    digest = registry.ensemble_digest(folder)
    run_id = evaluations.find_evaluation(digest, findings.plan) or evaluations.log_evaluation(digest, findings)
    known = registry.find_version(name, digest)
    version = known or registry.create_version(name, folder, digest, run_id)
    version = registry.point_to_evaluation(version, run_id)
    registry.set_challenger(version)
    return Registration(name=name, version=version.version, created=known is None, run_id=run_id)
