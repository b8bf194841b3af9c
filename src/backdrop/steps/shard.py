"""`shard`: finds the photographs that have no results yet, and divides them into shares."""

import contextlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from backdrop.common import s3, storage
from backdrop.common.progress import working
from backdrop.config.explain import as_choice
from backdrop.config.records import Record
from backdrop.data.photographs import Shard, list_names
from backdrop.inference.compose import PictureOptions, PictureType
from backdrop.steps import predict
from backdrop.steps.merge import Row, find_photographs
from backdrop.tracking.registry import require_version


@dataclass(frozen=True)
class Request:
    """What a run predicts.

    Attributes:
        images: the folder or `s3://` prefix of the photographs.
        model: a registered model, such as `models:/NAME@champion`.
        out: where all results are merged.
        work: where each share has its own.
        count: how many shares.
        format: of the results.
        options: how cut-outs are shown and saved.
    """

    images: str
    model: str
    out: str
    work: str
    count: int
    format: predict.Format = "cutout"
    options: PictureOptions = predict.PLAIN


class ShardPlan(Record):
    """What there is to predict: photographs' names, with the versions of their files, by which model, and where.

    `missing` are the numbers of the shares without a finished output.
    """

    images: str
    model: str
    folder: str
    count: int
    versions: dict[str, str]
    missing: tuple[int, ...]

    def address(self, number: int) -> str:
        """Where a share has its output."""
        return f"{self.folder}/{number}-of-{self.count}"

    def share(self, number: int) -> Shard:
        """A share of the photographs."""
        return Shard(self.images, number, self.count, tuple(self.versions))


def options_of(background: str, crop: float, file_type: str) -> PictureOptions:
    """How cut-outs are shown and saved, from the pipeline's parameters, of which none can be None.

    An empty background stands for transparency, a crop below 0 for the photograph's frame.

    Raises:
        ConfigError: if the background is neither a color nor a picture's address, there is no such type, or the options
            contradict each other.
        DataError: if the picture can't be read.
    """
    behind = predict.read_background(background) if background else None
    return PictureOptions(as_choice("type", file_type, PictureType), behind, None if crop < 0 else crop)


@working("looking for new photographs")
def shard(request: Request) -> ShardPlan:
    """Finds the photographs without results at `out`, and the shares of them that aren't predicted yet.

    A photograph is new if its file isn't the one that was predicted. With new ones, those that failed are tried again:
    perhaps their disk was to blame. For a submission all are new, because Kaggle takes none that is incomplete. The
    model's address becomes that of a version, so that all shares use the same.

    Raises:
        ConfigError: if an option can't be used.
        DataError: if there are no photographs, or two would have outputs of one name.
        TrackingError: if there is no such model, or MLflow doesn't answer.
        StorageError: if something can't be read.
    """
    style = predict.style_of(request.format, predict.pictures_of(request.format, request.options))
    version = require_version(request.model)
    versions = _versions(request.images)
    if request.format != "submission":
        versions = _due(versions, find_photographs(request.out, style))
    key = storage.sha256(json.dumps([style, version.digest, request.images, request.count, versions]).encode())
    folder = f"{request.work.rstrip('/')}/predict-{key[:16]}"
    plan = ShardPlan(
        images=request.images,
        model=version.address,
        folder=folder,
        count=request.count,
        versions=versions,
        missing=(),
    )
    numbers = range(1, request.count + 1) if versions else ()
    missing = [one for one in numbers if not storage.exists(f"{plan.address(one)}/{predict.RECORD}")]
    return plan.model_copy(update={"missing": tuple(missing)})


def _due(versions: dict[str, str], done: Mapping[str, Row]) -> dict[str, str]:
    """The photographs to predict, with the versions of their files."""
    new = {name for name, file in versions.items() if name not in done or done[name].version != file}
    return {name: file for name, file in versions.items() if name in new or (new and done[name].failure)}


def _versions(images: str) -> dict[str, str]:
    """What changes with a photograph's file, by name: in S3 its ETag, on disk its size and time.

    A photograph that is deleted meanwhile isn't among them.
    """
    names = list_names(images)
    if storage.is_remote(images):
        etags = {entry.name: entry.etag.strip('"') for entry in s3.objects(images)}
        return {name: etags[name] for name in names if name in etags}
    versions = {}
    for name in names:
        with contextlib.suppress(FileNotFoundError):
            stat = Path(images, name).stat()
            versions[name] = f"{stat.st_size}-{stat.st_mtime_ns}"
    return versions
