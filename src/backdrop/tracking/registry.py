"""The model registry: one version per ensemble digest."""

import contextlib
import re
import shutil
import tempfile
import warnings
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from mlflow import MlflowClient, pyfunc
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModelOutput
from mlflow.entities.model_registry import ModelVersion
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.errors import DataError, MemberError, TrackingError
from backdrop.common.names import checked_name
from backdrop.common.progress import log
from backdrop.config.folds import PLAN
from backdrop.config.records import Record
from backdrop.data.dataset import file_digest
from backdrop.evaluation.gate import Verdict
from backdrop.inference.ensemble import CONFIG, MEMBERS
from backdrop.inference.member import RECIPE, read_member
from backdrop.tracking import history, tracking_uri
from backdrop.tracking.artifacts import file_sizes
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.client import connect, is_missing, place, retry, server_errors
from backdrop.tracking.evaluations import DIGEST, fetch_evaluation
from backdrop.tracking.ledger import Entry, State

EVALUATION_RUN = "backdrop.evaluation_run"
OUTCOME, VERDICT = "backdrop.outcome", "backdrop.verdict"
SIZE = "backdrop.size"
CODE = ("MLmodel", "pyfunc.py")
LOST = "Run `backdrop register` for the same members: it uploads them again"
ENSEMBLE = "ensemble"

# MLflow allows more characters, but these need no quoting in its filters and addresses.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
ADDRESS = re.compile(rf"models:/(?P<name>{NAME.pattern})(?:@(?P<alias>[A-Za-z0-9._-]+)|/(?P<version>\d+))")
# An image file's bytes in, its mask as a PNG file's bytes out; REST carries both as base64.
SIGNATURE = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]), outputs=Schema([ColSpec(DataType.binary, "mask")])
)


class Version(Record):
    """A version of a registered model.

    `digest` is its ensemble's, `evaluation_run` the run with its scores, `model` MLflow's id of its files, and `size`
    their size in bytes.
    """

    name: str
    version: int
    digest: str
    evaluation_run: str
    model: str
    size: int

    @property
    def address(self) -> str:
        """`models:/NAME/VERSION`."""
        return f"models:/{self.name}/{self.version}"


def ensemble_digest(folder: Path) -> str:
    """sha256 of an ensemble's `ensemble.yaml` and of its members' content keys, recipes and weights.

    Everything but the keys is read from the files, so a changed file changes the digest. A member's training time,
    which is also in its record, doesn't.

    Raises:
        MemberError: if a member is incomplete.
        DataError: if `ensemble.yaml` is missing.
    """
    members = [read_member(member) for member in sorted((folder / MEMBERS).iterdir())]
    parts = sorted(f"{m.record.key} {file_digest(m.folder / RECIPE)} {m.record.weights}" for m in members)
    return storage.sha256("\n".join([file_digest(folder / CONFIG), *parts]).encode())


def find_versions(name: str, digest: str) -> list[Version]:
    """The versions of a model with this ensemble digest, the first one first; the others were made at the same time.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    query = f"name = '{_checked(name)}' and tags.`{DIGEST}` = '{digest}'"
    client = connect()
    with server_errors(f"The versions of {name} can't be searched"):
        versions = [_version(entry) for entry in client.search_model_versions(query)]
    return sorted(versions, key=lambda version: version.version)


def find_alias(name: str, alias: str) -> Version | None:
    """The version with an alias; None if there is no such model or alias.

    The history says which version is the champion, the previous one and the challenger; other aliases are MLflow's.

    Raises:
        TrackingError: if the history was changed, or the server doesn't answer.
    """
    client = connect()
    known = history.read(_checked(name))
    with server_errors(f"Model {name} can't be read"):
        model = history.find_model(client, name)
        shown = model.aliases.get(alias) if model else None
        number = getattr(known.state, alias) if known.links and alias in history.ALIASES else shown
        return _version(client.get_model_version(name, str(number))) if number else None


def find_number(name: str, number: int) -> Version:
    """A version by its number.

    Raises:
        TrackingError: if there is none, or the server doesn't answer.
    """
    version = find_address(f"models:/{name}/{number}")
    if version is None:
        raise TrackingError(f"There is no models:/{name}/{number}, or it was deleted", f"See `backdrop history {name}`")
    return version


def find_address(address: str) -> Version | None:
    """The version at `models:/NAME@ALIAS` or `models:/NAME/VERSION`; None if there is none.

    Raises:
        TrackingError: if the address is malformed, or the server doesn't answer.
    """
    match = ADDRESS.fullmatch(address)
    if not match:
        raise TrackingError(f"{address} isn't a model's address", "Write it as models:/NAME@champion")
    if match["alias"]:
        return find_alias(match["name"], match["alias"])
    client = connect()
    with server_errors(f"{address} can't be read"):
        try:
            return _version(client.get_model_version(match["name"], match["version"]))
        except MlflowException as error:
            if is_missing(error):
                return None
            raise


def register(name: str, folder: Path, digest: str, evaluation_run: str) -> tuple[Version, bool]:
    """Registers an ensemble, or finds its version, and nominates it: the gate judges it next.

    Args:
        name: of the registered model, which is created if needed.
        folder: the ensemble folder.
        digest: its digest.
        evaluation_run: the run with its scores; the model is logged as this run's output.

    Returns:
        The version, and whether it was made now.

    Raises:
        TrackingError: if the server doesn't answer or refuses the name.
    """
    found, made = find_versions(name, digest), None
    if found:
        put_back(found[0], folder)
    else:
        made = _create_version(name, folder, digest, evaluation_run)
        found = find_versions(name, digest) or [made]
    first, *others = found
    for other in others:
        _delete_unless_decided(other)

    def nominate(state: State) -> Entry | None:
        latest = state.nomination
        if latest and (latest.version, latest.evaluation) == (first.version, evaluation_run):
            return None
        digests = {"ensemble": digest}
        return Entry(event="registered", version=first.version, evaluation=evaluation_run, digests=digests)

    history.record(name, nominate)
    return point_to_evaluation(first, evaluation_run), first == made


def _create_version(name: str, folder: Path, digest: str, evaluation_run: str) -> Version:
    client = connect()
    with server_errors(f"A version of {name} can't be created"):
        history.create_model(client, _checked(name))
        run = client.get_run(evaluation_run)
        logged = client.create_logged_model(run.info.experiment_id, name=ENSEMBLE, source_run_id=evaluation_run)
        model = str(logged.model_id)
        size = _upload(client, model, evaluation_run, folder)
        client.finalize_logged_model(model, "READY")
        client.log_outputs(evaluation_run, [LoggedModelOutput(model, 0)])
        tags = {DIGEST: digest, EVALUATION_RUN: evaluation_run, SIZE: str(size)}
        source = f"models:/{model}"
        version = client.create_model_version(
            name, source, evaluation_run, tags=tags, model_id=model, await_creation_for=0
        )
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


def put_back(version: Version, folder: Path) -> None:
    """Uploads a version's files again if MLflow has lost some, and logs that.

    Args:
        version: the version.
        folder: the ensemble folder, with the version's digest.

    Raises:
        TrackingError: if the server doesn't answer, or the version's model was deleted.
    """
    client = connect()
    if _is_whole(client, version):
        return
    with server_errors(f"{version.address} can't be uploaded again", "Delete the version and register it again"):
        size = _upload(client, version.model, version.evaluation_run, folder)
    _tag(version, SIZE, str(size))
    log(f"Files of {version.address} were gone from MLflow: uploaded again")


def check_files(version: Version) -> None:
    """Makes sure that MLflow still has a version's files.

    Raises:
        TrackingError: if it hasn't, or doesn't answer.
    """
    if not _is_whole(connect(), version):
        raise TrackingError(f"MLflow has lost files of {version.address}", LOST)


def point_to_evaluation(version: Version, run_id: str) -> Version:
    """Makes another evaluation run the version's own, and returns the changed version.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    if version.evaluation_run != run_id:
        _tag(version, EVALUATION_RUN, run_id)
    return version.model_copy(update={"evaluation_run": run_id})


def set_verdict(version: Version, verdict: Verdict) -> None:
    """Writes a verdict to the version's tags: `backdrop.outcome` to filter by, and all of it but the slices as JSON.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    _tag(version, OUTCOME, verdict.outcome)
    _tag(version, VERDICT, verdict.model_dump_json(exclude={"slices"}))


def fetch_version(address: str) -> Path:
    """The ensemble folder of a version, copied to the cache once and verified by its digest.

    Args:
        address: `models:/NAME@ALIAS` or `models:/NAME/VERSION`.

    Raises:
        TrackingError: if there is no such version, its files were lost or changed, or the server doesn't answer.
        StorageError: if it can't be written.
    """
    version = find_address(address)
    if version is None:
        raise TrackingError(f"There is no {address} in {place()}", "List the models with `backdrop models`")

    def fill(folder: Path) -> None:
        check_files(version)
        with tempfile.TemporaryDirectory() as scratch:
            with server_errors(f"{address} can't be fetched"):
                model = download_artifacts(artifact_uri=version.address, dst_path=scratch, tracking_uri=tracking_uri())
            ensemble = Path(model) / "artifacts" / ENSEMBLE
            _verify(ensemble, version)
            for path in ensemble.iterdir():
                shutil.move(path, folder)  # the cache may be another disk

    digest = checked_name(version.digest, f"The tag of {version.address}", folders=False)
    return fetch_once(storage.cache_folder() / "ensembles" / digest, fill)


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


def _checked(name: str) -> str:
    if not NAME.fullmatch(name) or name.endswith(history.SUFFIX):
        remedy = f"Use letters, digits, dots, dashes and underscores, and another ending than {history.SUFFIX}"
        raise TrackingError(f"{name!r} isn't a valid model name", remedy)
    return name


def _version(entry: ModelVersion) -> Version:
    tags = entry.tags
    if not {DIGEST, EVALUATION_RUN, SIZE} <= set(tags):
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
    )


def _upload(client: MlflowClient, model: str, run_id: str, folder: Path) -> int:
    """Uploads the ensemble's files to a logged model as a pyfunc model, and returns their size in bytes."""
    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        # It warns about the missing input example, on which it would run the ensemble.
        warnings.simplefilter("ignore", UserWarning)
        target = Path(scratch) / "model"
        pyfunc.save_model(
            target,
            mlflow_model=Model(run_id=run_id, model_id=model, model_uuid=model),
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ENSEMBLE: str(folder)},
            signature=SIGNATURE,
            pip_requirements=[f"backdrop-ml=={__version__}"],
        )
        client.log_model_artifacts(model, str(target))
        files = [path for path in target.rglob("*") if path.is_file()]
        return _total({path.relative_to(target).as_posix(): path.stat().st_size for path in files})


def _total(sizes: Mapping[str, int]) -> int:
    """The size of what a version needs; loading a model in place adds files to it."""
    return sum(size for name, size in sizes.items() if name.startswith("artifacts/") or name in CODE)


def _is_whole(client: MlflowClient, version: Version) -> bool:
    """Whether MLflow has all files of a version."""
    with server_errors(f"The files of {version.address} can't be listed"):
        try:
            sizes = file_sizes(partial(client.list_logged_model_artifacts, version.model))
        except MlflowException as error:
            if is_missing(error):
                return False
            raise
    return _total(sizes) == version.size


def _verify(folder: Path, version: Version) -> None:
    with contextlib.suppress(DataError, MemberError):
        if folder.is_dir() and ensemble_digest(folder) == version.digest:
            return
    what = f"The files of {version.address} were changed after it was registered"
    raise TrackingError(what, "Delete the version and register the ensemble again")


def _tag(version: Version, key: str, value: str) -> None:
    client = connect()
    write = partial(client.set_model_version_tag, version.name, str(version.version), key, value)
    retry(f"{version.address} can't be changed", write, history.POLICY)
