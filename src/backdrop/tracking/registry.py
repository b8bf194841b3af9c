"""The model registry: one version per ensemble digest."""

import re
from pathlib import Path

from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException

from backdrop.common.errors import TrackingError
from backdrop.config.folds import PLAN
from backdrop.evaluation.gate import Verdict
from backdrop.tracking import history
from backdrop.tracking.client import connect, has_store, is_missing, missing, server_errors
from backdrop.tracking.evaluations import DIGEST, fetch_evaluation
from backdrop.tracking.ledger import Entry, State
from backdrop.tracking.model_card import Facts
from backdrop.tracking.version_files import ENSEMBLE, MANIFEST, SIZE, TEACHER, Version, put_back, tag, upload

EVALUATION_RUN = "backdrop.evaluation_run"
VERDICT = "backdrop.verdict"

ADDRESS = re.compile(rf"models:/(?P<name>{history.NAME.pattern})(?:@(?P<alias>[A-Za-z0-9._-]+)|/(?P<version>\d+))")


def find_versions(name: str, digest: str) -> list[Version]:
    """The versions of a model with this ensemble digest, the first one first; the others were made at the same time.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    query = f"name = '{history.checked_name(name)}' and tags.`{DIGEST}` = '{digest}'"
    client = connect()
    with server_errors(f"The versions of {name} can't be searched"):
        versions = [_version(entry) for entry in client.search_model_versions(query)]
    return sorted(versions, key=lambda version: version.version)


def find_alias(name: str, alias: str) -> Version | None:
    """The version with an alias; None if there is no such model or alias.

    The history says which version is the champion, the previous one and the challenger; other aliases are MLflow's.

    Raises:
        TrackingError: if the history was changed, the version was deleted, or the server doesn't answer.
    """
    client = connect()
    known = history.read(name)
    with server_errors(f"Model {name} can't be read"):
        model = history.find_model(client, name)
        if model is None:
            return None
        shown = model.aliases.get(alias)
        number = getattr(known.state, alias) if known.links and alias in history.ALIASES else shown
        try:
            return _version(client.get_model_version(name, str(number))) if number else None
        except MlflowException as error:
            if not is_missing(error):
                raise
            remedy = "Choose another with `backdrop rollback`, `backdrop promote --override` or `backdrop register`"
            raise TrackingError(f"models:/{name}/{number}, the {alias} of {name}, was deleted", remedy) from error


def find_number(name: str, number: int) -> Version:
    """A version by its number.

    Raises:
        TrackingError: if there is none, or the server doesn't answer.
    """
    version = find_address(f"models:/{history.checked_name(name)}/{number}")
    if version is None:
        raise TrackingError(f"There is no models:/{name}/{number}, or it was deleted", f"See `backdrop history {name}`")
    return version


def parse_address(address: str) -> tuple[str, str, str]:
    """The name, alias and version in `models:/NAME@ALIAS` or `models:/NAME/VERSION`; one of the last two is empty.

    Raises:
        TrackingError: if the address is malformed.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise TrackingError(f"{address} isn't a model's address", "Write it as models:/NAME@champion")
    return match["name"], match["alias"] or "", match["version"] or ""


def find_address(address: str) -> Version | None:
    """The version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`; None if there is none.

    Raises:
        TrackingError: if the address is malformed, or the server doesn't answer.
    """
    name, alias, number = parse_address(address)
    if not has_store():
        return None
    if alias:
        return find_alias(name, alias)
    client = connect()
    with server_errors(f"{address} can't be read"):
        try:
            return _version(client.get_model_version(name, number))
        except MlflowException as error:
            if is_missing(error):
                return None
            raise


def require_version(address: str) -> Version:
    """The version at an address.

    Raises:
        TrackingError: if there is none, or as `find_address`.
    """
    version = find_address(address)
    if version is None:
        raise missing(address)
    return version


def register(name: str, folder: Path, digest: str, facts: Facts) -> tuple[Version, bool]:
    """Registers an ensemble, or finds its version, and nominates it: the gate judges it next.

    Args:
        name: of the registered model, which is created if needed.
        folder: the ensemble folder.
        digest: its digest.
        facts: what its card says; the model is logged as an output of the evaluation's run.

    Returns:
        The version, and whether it was made now.

    Raises:
        ConfigError: if its files can't be signed.
        TrackingError: if the server doesn't answer or refuses the name.
    """
    found, made = find_versions(name, digest), None
    if found:
        recorded = history.read(name).state.registered.get(found[0].version)
        found[0] = put_back(found[0], folder, recorded.digests.get("files", "") if recorded else "")
    else:
        made = _create_version(name, folder, digest, facts)
        found = find_versions(name, digest) or [made]
    first, *others = found
    for other in others:
        _delete_unless_decided(other)
    first = _point_to_evaluation(first, facts)

    def nominate(state: State) -> Entry | None:
        latest, digests = state.nomination, {"ensemble": digest, "files": first.files}
        if facts.teacher:
            digests[TEACHER] = facts.teacher.digest
        news = {"version": first.version, "evaluation": facts.evaluation, "digests": digests}
        if latest and latest.model_copy(update=news) == latest:
            return None
        return Entry(event="registered", **news)

    history.record(name, nominate)
    return first, made is not None and first.version == made.version


def _create_version(name: str, folder: Path, digest: str, facts: Facts) -> Version:
    client, run_id = connect(), facts.evaluation
    with server_errors(f"A version of {name} can't be created"):
        history.create_model(client, history.checked_name(name))
        run = client.get_run(run_id)
        logged = client.create_logged_model(run.info.experiment_id, name=ENSEMBLE, source_run_id=run_id)
        model = str(logged.model_id)
        tags = {**facts.tags(), DIGEST: digest, EVALUATION_RUN: run_id, **upload(client, logged, folder)}
        client.finalize_logged_model(model, "READY")
        client.log_outputs(run_id, [LoggedModelOutput(model, 0)])
        source = f"models:/{model}"
        version = client.create_model_version(name, source, run_id, tags=tags, model_id=model, await_creation_for=0)
        return _version(version)


def _delete_unless_decided(version: Version) -> None:
    """Deletes the second version of an ensemble, of a process that registered it at the same time, and may be dead."""
    client = connect()
    if version.version in {entry.version for entry in history.read(version.name).state.changes}:
        return
    with server_errors(f"{version.address}, registered twice, can't be deleted"):
        try:
            client.delete_model_version(version.name, str(version.version))
        except MlflowException as error:  # the other process has deleted it
            if not is_missing(error):
                raise


def _point_to_evaluation(version: Version, facts: Facts) -> Version:
    """Makes another evaluation run the version's own, and returns the changed version."""
    if version.evaluation_run != facts.evaluation:
        for key, value in {**facts.tags(), EVALUATION_RUN: facts.evaluation}.items():
            tag(version, key, value)
    return version.model_copy(update={"evaluation_run": facts.evaluation})


def set_verdict(version: Version, verdict: Verdict) -> None:
    """Writes a verdict without its slices to the version's tag `backdrop.verdict`, as JSON.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    tag(version, VERDICT, verdict.model_dump_json(exclude={"slices"}))


def champion_plan(address: str, name: str = PLAN) -> Path | None:
    """A fold plan of a version, copied to the cache; None if there is no such model, alias, version or plan.

    Args:
        address: such as `models:/NAME@champion`.
        name: the plan's file name, the ensemble's own plan or that of a further scheme.

    Raises:
        TrackingError: if the address is malformed, or the server doesn't answer.
    """
    version = find_address(address)
    path = fetch_evaluation(version.evaluation_run) / name if version else None
    return path if path and path.is_file() else None


def _version(entry: ModelVersion) -> Version:
    tags = entry.tags
    if not {DIGEST, EVALUATION_RUN, SIZE, MANIFEST} <= set(tags):
        raise TrackingError(
            f"models:/{entry.name}/{entry.version} isn't Backdrop's", "Use another name, or move the alias"
        )
    return Version(
        name=entry.name,
        version=int(entry.version),
        digest=tags[DIGEST],
        evaluation_run=tags[EVALUATION_RUN],
        model=str(entry.source).removeprefix("models:/"),
        size=int(tags[SIZE]),
        files=tags[MANIFEST],
    )
