"""The files of a model's version in MLflow: uploaded, listed with their digests, fetched and examined.

`files.json` lists the sha256 of each file. Its own is in the model's history, so that whoever trusts the history can
find every changed, missing or added file.
"""

import contextlib
import errno
import json
import os
import tempfile
import warnings
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

from mlflow import MlflowClient, pyfunc
from mlflow.artifacts import download_artifacts
from mlflow.entities import LoggedModel
from mlflow.exceptions import MlflowException
from mlflow.models import Model, ModelSignature
from mlflow.types import ColSpec, DataType, Schema

from backdrop import __version__
from backdrop.common import storage
from backdrop.common.errors import DataError, MemberError, TrackingError
from backdrop.common.names import checked_name
from backdrop.common.progress import log
from backdrop.common.text import parse_json
from backdrop.config.records import Record, parse_yaml
from backdrop.data.dataset import file_digest
from backdrop.inference.member import CONFIG, MEMBERS, ONNX, RECIPE, Member, read_member
from backdrop.tracking import history, signing, tracking_uri
from backdrop.tracking.artifacts import file_sizes, require_as_listed
from backdrop.tracking.cache import fetch_once
from backdrop.tracking.client import connect, is_missing, retry, server_errors
from backdrop.tracking.signing import MADE_BY_FETCHING, SIGNATURE

ENSEMBLE = "ensemble"
FILES = "files.json"
CODE = ("MLmodel", "pyfunc.py", FILES)
# Python would write a folder of this name beside the code wherever it runs it, and would run what is in it instead of
# the code, whoever wrote that.
NO_BYTECODE = "__pycache__"
LOST = "Run `backdrop register` for the same members: it uploads them again"
SIZE, MANIFEST = "backdrop.size", "backdrop.files"
TEACHER = "teacher"  # in a student's history: the digest of the ensemble that taught it
# An image file's bytes in, its mask as a PNG file's bytes out; REST carries both as base64.
IO = ModelSignature(
    inputs=Schema([ColSpec(DataType.binary, "image")]), outputs=Schema([ColSpec(DataType.binary, "mask")])
)


class Version(Record):
    """A version of a registered model.

    `digest` is its ensemble's, `evaluation_run` the run with its scores, `model` MLflow's id of its files, `size`
    their size in bytes, and `files` the sha256 of their list.
    """

    name: str
    version: int
    digest: str
    evaluation_run: str
    model: str
    size: int
    files: str

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
    return members_digest(file_digest(folder / CONFIG), members)


def members_digest(config: str, members: Sequence[Member]) -> str:
    """The digest that an ensemble of these members has in a folder, where `config` is that of its `ensemble.yaml`."""
    parts = sorted(
        f"{m.record.key} {file_digest(m.folder / RECIPE)} {m.record.weights} {m.record.onnx}".rstrip() for m in members
    )
    return storage.sha256("\n".join([config, *parts]).encode())


def upload(client: MlflowClient, model: LoggedModel, folder: Path) -> dict[str, str]:
    """Uploads an ensemble's files to a logged model as a pyfunc model.

    The same ensemble in the same environment gives the same bytes, so that it may be uploaded again, also by several
    processes at once; only a signature differs.

    Args:
        client: of the server or store.
        model: the logged model.
        folder: the ensemble folder.

    Returns:
        The version's tags that describe the files.

    Raises:
        ConfigError: if they can't be signed with the key in BACKDROP_SIGNING_KEY.
        MlflowException: if the server doesn't accept them.
    """
    with tempfile.TemporaryDirectory() as scratch:
        target = Path(scratch) / "model"
        _write_model(target, model, folder)
        (target / NO_BYTECODE).write_bytes(b"Not a folder, so that Python keeps no copy of the code beside it.\n")
        digests = _digests(target)
        (target / FILES).write_text(f"{json.dumps(digests, indent=2, sort_keys=True)}\n", encoding="utf-8")
        signing.sign(target)
        client.log_model_artifacts(str(model.model_id), str(target))
        sizes = {name: (target / name).stat().st_size for name in (*digests, FILES)}
        return {SIZE: str(_total(sizes)), MANIFEST: file_digest(target / FILES)}


def put_back(version: Version, folder: Path, recorded: str) -> Version:
    """Uploads a version's files again if MLflow has lost some, or if they are to be signed now, and logs that.

    Args:
        version: the version.
        folder: the ensemble folder, with the version's digest.
        recorded: the sha256 of the list of its files in the model's history; empty if the history doesn't have it.

    Returns:
        The version, with the tags of its new files.

    Raises:
        ConfigError: if the files can't be signed.
        TrackingError: if the server doesn't answer, or the version's model was deleted.
    """
    sizes = _sizes(version)
    whole = _total(sizes) == version.size and recorded in ("", version.files)
    if whole and (SIGNATURE in sizes or not signing.signs()):
        return version
    client = connect()
    with server_errors(f"{version.address} can't be uploaded again", "Delete the version and register it again"):
        tags = upload(client, client.get_logged_model(version.model), folder)
    for key, value in tags.items():
        tag(version, key, value)
    what = f"{version.address} wasn't signed" if whole else f"Files of {version.address} were gone from MLflow"
    log(f"{what}: uploaded again")
    return version.model_copy(update={"size": int(tags[SIZE]), "files": tags[MANIFEST]})


def check_files(version: Version) -> None:
    """Makes sure that MLflow still has a version's files, and that they are signed if BACKDROP_TRUSTED_KEY is set.

    Raises:
        TrackingError: if it hasn't, if they aren't, or if it doesn't answer.
    """
    _require_whole(version)
    if signing.trusted_key():
        fetch(version)


def is_whole(version: Version) -> bool:
    """Whether MLflow still has a version's files, by their size.

    Raises:
        TrackingError: if it doesn't answer.
    """
    return _total(_sizes(version)) == version.size


def fetch(version: Version) -> Path:
    """The ensemble folder of a version, copied to the cache once and verified by its digest.

    If BACKDROP_TRUSTED_KEY is set, the signature is verified, too.

    Raises:
        ConfigError: if the key can't be used.
        TrackingError: if the version's files were lost or changed, or aren't signed with the key, or the server doesn't
            answer.
        StorageError: if it can't be written.
    """
    key = signing.trusted_key()

    def fill(folder: Path) -> None:
        sizes = _require_whole(version)
        with tempfile.TemporaryDirectory(dir=folder.parent) as scratch:  # of its disk and its group
            model = _download(version, sizes, scratch)
            if key:
                signing.verify(model, key, version.address)
            ensemble = model / "artifacts" / ENSEMBLE
            _verify(ensemble, version)
            for path in sorted(ensemble.rglob("*")):  # a folder comes before its files
                copy = folder / path.relative_to(ensemble)
                if path.is_dir():
                    copy.mkdir()
                else:
                    path.rename(copy)

    digest = checked_name(version.digest, f"The tag of {version.address}", folders=False)
    # What one key vouches for, another doesn't.
    kind = f"ensembles-{storage.sha256(key.encode())[:16]}" if key else "ensembles"
    return fetch_once(storage.cache_folder() / kind / digest, fill)


def examine(version: Version, recorded: str) -> tuple[int, Sequence[str], bool]:
    """Compares every file of a version with the list whose digest its model's history holds.

    Args:
        version: the version.
        recorded: the sha256 of the list in the model's history.

    Returns:
        The number of files, what was changed, is missing or was added, and whether they have a signature.

    Raises:
        ConfigError: if BACKDROP_TRUSTED_KEY can't be used.
        TrackingError: if the server doesn't answer.
    """
    key = signing.trusted_key()
    with tempfile.TemporaryDirectory() as scratch:
        sizes = _sizes(version)
        if not sizes:
            return 0, ["all files are missing"], False
        model = _download(version, sizes, scratch)
        signed = (model / SIGNATURE).is_file()
        digests = _digests(model)
        faults = _compare(model, digests, recorded)
        if key and not faults:
            try:
                signing.verify(model, key, version.address)
            except TrackingError as error:
                faults = [error.what]
        return len(digests), faults, signed


def tag(version: Version, key: str, value: str) -> None:
    """Sets a tag of a version.

    Raises:
        TrackingError: if the server doesn't answer.
    """
    write = partial(connect().set_model_version_tag, version.name, str(version.version), key, value)
    retry(f"{version.address} can't be changed", write, history.POLICY)


def requirement(members: Path) -> str:
    """What pip must install to predict with the members in a folder, in pip's words."""
    recipes = [parse_yaml(path.read_text(encoding="utf-8"), str(path)) for path in members.glob(f"*/{RECIPE}")]
    extras = ["encoders"] if any(recipe["network"]["kind"] == "timm_unet" for recipe in recipes) else []
    extras += ["student"] if any(members.glob(f"*/{ONNX}")) else []
    return f"backdrop-ml{'[' + ','.join(extras) + ']' if extras else ''}=={__version__}"


def _write_model(target: Path, model: LoggedModel, folder: Path) -> None:
    made = datetime.fromtimestamp(model.creation_timestamp / 1000, UTC).replace(tzinfo=None)
    identity = Model(
        run_id=model.source_run_id,
        model_id=model.model_id,
        model_uuid=model.model_id,
        utc_time_created=made,
    )
    with warnings.catch_warnings():
        # It warns about the missing input example, on which it would run the ensemble.
        warnings.simplefilter("ignore", UserWarning)
        pyfunc.save_model(
            target,
            mlflow_model=identity,
            python_model=str(Path(__file__).with_name("pyfunc.py")),
            artifacts={ENSEMBLE: str(folder)},
            signature=IO,
            pip_requirements=[requirement(folder / MEMBERS)],
        )


def _compare(model: Path, digests: Mapping[str, str], recorded: str) -> Sequence[str]:
    if not (model / FILES).is_file():
        return [f"{FILES} is missing"]
    if file_digest(model / FILES) != recorded:
        return [f"{FILES} was changed"]
    listed = parse_json((model / FILES).read_bytes())
    faults = [f"{name} {'was changed' if name in digests else 'is missing'}" for name in listed]
    return [
        *(fault for fault, name in zip(faults, listed, strict=True) if digests.get(name) != listed[name]),
        *(f"{name} was added" for name in digests if name not in listed),
    ]


def _digests(folder: Path) -> dict[str, str]:
    """The sha256 of each file below a model's folder, by name; what lists, signs or comes with them is left out."""
    left_out = {folder / name for name in (FILES, SIGNATURE, MADE_BY_FETCHING)}
    paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and path not in left_out]
    return {path.relative_to(folder).as_posix(): file_digest(path) for path in paths}


def _download(version: Version, sizes: Mapping[str, int], scratch: str) -> Path:
    uri = tracking_uri()
    try:
        with server_errors(f"{version.address} can't be fetched"):
            model = Path(download_artifacts(artifact_uri=version.address, dst_path=scratch, tracking_uri=uri))
    except TrackingError as error:
        if os.strerror(errno.ENOSPC) in str(error.__cause__):  # here: MLflow names the file that it read
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)) from error
        raise
    require_as_listed(model, _counted(sizes), version.address)
    return model


def _require_whole(version: Version) -> dict[str, int]:
    """The sizes of a version's files, none of which is lost."""
    sizes = _sizes(version)
    if _total(sizes) != version.size:
        raise TrackingError(f"MLflow has lost files of {version.address}", LOST)
    return sizes


def _sizes(version: Version) -> dict[str, int]:
    """The sizes in bytes of a version's files in MLflow, by name; none if its model was deleted."""
    client = connect()
    with server_errors(f"The files of {version.address} can't be listed"):
        try:
            return file_sizes(partial(client.list_logged_model_artifacts, version.model))
        except MlflowException as error:
            if is_missing(error):
                return {}
            raise


def _total(sizes: Mapping[str, int]) -> int:
    return sum(_counted(sizes).values())


def _counted(sizes: Mapping[str, int]) -> dict[str, int]:
    """The sizes of what a version needs; fetching a model adds files to it."""
    return {name: size for name, size in sizes.items() if name.startswith("artifacts/") or name in CODE}


def _verify(folder: Path, version: Version) -> None:
    with contextlib.suppress(DataError, MemberError):
        if folder.is_dir() and ensemble_digest(folder) == version.digest:
            return
    what = f"The files of {version.address} were changed after it was registered"
    raise TrackingError(what, "Delete the version and register the ensemble again")
