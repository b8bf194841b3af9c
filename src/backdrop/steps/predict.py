"""`predict`: an ensemble's masks of new photographs, as pictures, run lengths or a submission."""

import contextlib
import csv
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Literal

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, MemberError
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder
from backdrop.common.progress import progress, working
from backdrop.config import find_ensemble
from backdrop.config.records import Record
from backdrop.data.listing import IMAGE_SUFFIXES, PassedOver, list_images, normalized, printable, summarize
from backdrop.data.masks import encode_png
from backdrop.data.rle import decode_rle
from backdrop.inference.batch import Cutout, PredictionStore, keep_networks
from backdrop.inference.ensemble import EnsembleModel, gather, load_ensemble
from backdrop.inference.submission import check_names, open_submission
from backdrop.steps.members import open_member

STEP = "predict"
RECORD = "predict.json"
RUNS = "masks.csv"
SUBMISSION = "submission.csv.gz"
FAILED = "failed.csv"

Format = Literal["png", "rle", "submission"]


class PredictRecord(Record):
    """`predict.json`: the ensemble's digest, the format, and the numbers of all photographs and of failed ones.

    `passed_over` are the other files of the folder, by name.
    """

    model: str
    format: Format
    images: int
    failed: int
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def missed(self) -> bool:
        """Whether a photograph, or what looks like one, has no mask."""
        return self.failed > 0 or any(one.photograph for one in self.passed_over)


@working("predicting")
@alone(STEP)
def predict(
    images: str,
    out: str,
    members: Sequence[str] = (),
    model: str | None = None,
    ensemble: str | None = None,
    format: Format = "png",  # noqa: A002  # the option's name, here as everywhere
    sample_submission: str | None = None,
) -> PredictRecord:
    """Cuts out every photograph in a folder, at its own size; a killed run resumes.

    Args:
        images: the folder or `s3://` prefix that directly contains the photographs, such as a dataset's `test`.
        out: the folder to write: `predict.json`, `failed.csv` if a photograph failed, and the masks.
        members: addresses of the ensemble's members.
        model: instead of members, a registered model's address, such as `models:/NAME@champion`.
        ensemble: a shipped ensemble's name or a YAML file's path, for the members' weights and the post-processing.
        format: `png` (`<stem>.png` each, 0 and 255), `rle` (`masks.csv`) or `submission` (`submission.csv.gz`, where
            a failed photograph has an empty mask, because Kaggle refuses a file with a missing row).
        sample_submission: Kaggle's, to verify that the photographs are exactly those that it lists.

    Raises:
        DataError: if there are no photographs, or others than the sample submission lists.
        MemberError: if neither or both of members and model are given, or a member isn't complete.
        ConfigError: if the ensemble isn't valid, or an option can't be used with the others.
        TrackingError: if MLflow can't be reached or has no such model.
        StorageError: if something can't be read, something else is at `out`, or it can't be written.
    """
    photos, passed_over = _list(images)
    if sample_submission is not None:
        _check(photos, format, sample_submission)
    chosen = keep_networks(_open(members, model, ensemble))
    failed: list[Cutout] = []
    store = PredictionStore(_unfinished(out))
    with output_folder(out, STEP, RECORD) as folder:
        with _writer(folder, format) as write, progress("predicting photographs", len(photos)) as advance:
            for cutout in store.cut_out(chosen, photos):
                if cutout.failure:
                    failed.append(cutout)
                if not cutout.failure or format == "submission":
                    write(cutout)
                advance(cutout.image)
        record = PredictRecord(
            model=chosen.digest(),
            format=format,
            images=len(photos),
            failed=len(failed),
            passed_over=passed_over,
        )
        _write_failed(folder, failed)
        (folder / RECORD).write_text(record.model_dump_json(indent=1) + "\n")
    store.clear()
    return record


def _list(images: str) -> tuple[list[Path], tuple[PassedOver, ...]]:
    """The photographs of a folder by name, and its other files."""
    listing = list_images(storage.local_folder(images), IMAGE_SUFFIXES)
    if not listing.images:
        others = summarize(listing.passed_over)
        remedy = "Name the folder that they lie in, such as DATA/test" + (f" ({others})" if others else "")
        raise DataError(f"{printable(images)} has no photographs", remedy)
    stems: dict[str, Path] = {}
    for photo in listing.images:
        if stems.setdefault(normalized(photo.stem), photo) != photo:
            raise DataError(f"{stems[normalized(photo.stem)]} and {photo} have one stem", "Keep one of them")
    by_name = tuple(one.model_copy(update={"file": Path(one.file).name}) for one in listing.passed_over)
    return list(listing.images), by_name


def _check(photos: Sequence[Path], format: Format, sample: str) -> None:  # noqa: A002  # as above
    if format != "submission":
        raise ConfigError("--sample-submission is of no use without --format submission", "Leave one out, or add one")
    check_names([photo.name for photo in photos], sample)


def _open(members: Sequence[str], model: str | None, ensemble: str | None) -> EnsembleModel:
    if bool(members) == bool(model):
        raise MemberError("Either members or a model must be named", "Set one of --members and --model")
    if model is None:
        return gather([open_member(address) for address in members], find_ensemble(ensemble) if ensemble else None)
    if ensemble is not None:
        raise ConfigError(f"{model} has its own ensemble", "Leave --ensemble out")
    from backdrop.tracking.registry import fetch_version  # slow: imports mlflow

    return load_ensemble(fetch_version(model))


def _unfinished(out: str) -> Path:
    """The folder that keeps what is done until all is: beside `out`, or in the cache if that is in S3."""
    return storage.cache_folder() / "predicting" if storage.is_remote(out) else Path(f"{Path(out)}.partial")


@contextlib.contextmanager
def _writer(folder: Path, format: Format) -> Iterator[Callable[[Cutout], object]]:  # noqa: A002  # as above
    """Yields a function that writes one photograph's mask."""
    if format == "submission":
        with open_submission(folder / SUBMISSION) as write_row:
            yield lambda cutout: write_row(cutout.image, cutout.rle)
    elif format == "rle":
        with _table(folder / RUNS, ["stem", "height", "width", "rle"]) as write:
            yield lambda cutout: write([Path(cutout.image).stem, cutout.height, cutout.width, cutout.rle])
    else:
        yield partial(_write_png, folder)


def _write_png(folder: Path, cutout: Cutout) -> None:
    mask = decode_rle(cutout.rle, cutout.height, cutout.width)
    (folder / f"{Path(cutout.image).stem}.png").write_bytes(encode_png(mask))


def _write_failed(folder: Path, failed: Sequence[Cutout]) -> None:
    if failed:
        with _table(folder / FAILED, ["image", "reason"]) as write_row:
            for cutout in failed:
                write_row([cutout.image, cutout.failure])


@contextlib.contextmanager
def _table(path: Path, head: Sequence[str]) -> Iterator[Callable[[Sequence[object]], object]]:
    with path.open("w", encoding="utf-8", newline="") as file:
        rows = csv.writer(file, lineterminator="\n")
        rows.writerow(head)
        yield rows.writerow
