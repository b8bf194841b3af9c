"""`predict`: an ensemble's cut-outs or masks of new photographs: pictures, run lengths or a submission."""

import contextlib
import csv
import json
import os
import shutil
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Literal

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, MemberError, StorageError, shorten
from backdrop.common.lock import alone
from backdrop.common.outputs import output_folder, probe
from backdrop.common.progress import log, progress, working
from backdrop.common.text import dump_table, parse_json
from backdrop.common.words import count
from backdrop.config import find_ensemble
from backdrop.config.records import Record, parse
from backdrop.data.dataset import opened_image
from backdrop.data.formats import decode_photo
from backdrop.data.listing import PARTIAL, PassedOver
from backdrop.data.masks import encode_png
from backdrop.data.photographs import Shard, Source, find_photographs, find_shard, list_names
from backdrop.data.rle import decode_rle
from backdrop.inference.batch import Cutout, PredictionStore, keep_networks
from backdrop.inference.compose import Color, Image, PictureOptions, Pictures, parse_color
from backdrop.inference.ensemble import EnsembleModel, gather, load_ensemble
from backdrop.inference.submission import check_names, open_submission
from backdrop.inference.uncertainty import DiceRange
from backdrop.report.doubtful import SHOWN, render_doubtful, render_figure
from backdrop.steps.members import open_member

STEP = "predict"
RECORD = "predict.json"
RUNS = "masks.csv"
SUBMISSION = "submission.csv.gz"
FAILED = "failed.csv"
DICES = "predictions.csv"
DOUBTFUL = "doubtful.html"
OWN = (RECORD, RUNS, SUBMISSION, FAILED, DICES, DOUBTFUL)
MERGED = ("merge.json", "photographs.csv")  # which `merge` writes beside the results
RUNS_HEAD, FAILED_HEAD = ["stem", "height", "width", "rle"], ["image", "reason"]
DICES_HEAD = ["image", "dice", "low", "high"]

Format = Literal["cutout", "mask", "alpha", "rle", "submission"]
TABLES = ("rle", "submission")  # formats without pictures
PLAIN = PictureOptions()


class ShardRecord(Record):
    """Which share of how many, and the names of its photographs.

    `listing` is the sha256 of the names of all shares' photographs, and `style` that of all options of the results.
    """

    number: int
    count: int
    listing: str
    style: str
    names: tuple[str, ...]


class PredictRecord(Record):
    """`predict.json`: the ensemble's digest, the format, and the numbers of all photographs and of failed ones.

    `passed_over` are the other files of the inputs, by name; a share doesn't list them.
    """

    model: str
    format: Format
    images: int
    failed: int
    passed_over: tuple[PassedOver, ...] = ()
    shard: ShardRecord | None = None

    @property
    def missed(self) -> bool:
        """Whether a photograph, or what looks like one, has no mask."""
        return self.failed > 0 or any(one.photograph for one in self.passed_over)


@working("predicting")
@alone(STEP)
def predict(
    images: str | Sequence[str] | Shard,
    out: str,
    members: Sequence[str] = (),
    model: str | None = None,
    ensemble: str | None = None,
    format: Format = "cutout",  # noqa: A002  # the option's name, here as everywhere
    sample_submission: str | None = None,
    options: PictureOptions = PLAIN,
) -> PredictRecord:
    """Cuts out every photograph, at its own size; a killed run resumes.

    Args:
        images: files, folders (with their subfolders), patterns, `s3://` objects or prefixes; one or several; or a
            share of one folder, whose outputs `merge` puts together.
        out: the folder to write: `predict.json`, `predictions.csv` and `doubtful.html` if the model can tell how good
            its masks are, `failed.csv` if a photograph failed, and the results. It isn't searched for photographs.
        members: addresses of the ensemble's members.
        model: instead of members, a registered model's address, such as `models:/NAME@champion`.
        ensemble: a shipped ensemble's name or a YAML file's path, for the members' weights and the post-processing.
        format: `cutout` (a picture each, transparent or before a background), `mask` (a PNG each, 0 and 255), `alpha`
            (a PNG each, 0 to 255), `rle` (`masks.csv`) or `submission` (`submission.csv.gz`, where a failed photograph
            has an empty mask, because Kaggle refuses a file with a missing row). A picture has its photograph's name
            and relative folder.
        sample_submission: Kaggle's, to verify that the photographs are exactly those that it lists.
        options: how cut-outs are shown and saved.

    Raises:
        DataError: if there are no photographs, two with one name, or others than the sample submission lists.
        MemberError: if neither or both of members and model are given, or a member isn't complete.
        ConfigError: if the ensemble isn't valid, or an option can't be used with the others.
        TrackingError: if MLflow can't be reached or has no such model.
        StorageError: if something can't be read, something else is at `out`, or it can't be written.
    """
    pictures = pictures_of(format, options)
    if isinstance(images, Shard):
        _require_own(out, images)
    partial_folder = _unfinished(out)
    probe(partial_folder)
    if isinstance(images, Shard) and sample_submission is not None:
        raise ConfigError("A share has only some of the sample's photographs", "Leave --sample-submission out")
    photos, passed_over, shard = _find(images, [Path(out).absolute(), partial_folder.absolute()], format, pictures)
    if format not in TABLES:
        _require_free([photo.name for photo in photos], out)
    names = {} if sample_submission is None else _check(photos, format, sample_submission)
    chosen = keep_networks(_open(members, model, ensemble))
    failed: list[Cutout] = []
    empty: list[str] = []
    dices: dict[str, DiceRange] = {}
    doubtful: list[Cutout] = []
    store = PredictionStore(partial_folder, pictures)
    with output_folder(out, STEP, RECORD) as folder:
        with _writer(store, folder, format) as write, progress("predicting photographs", len(photos)) as advance:
            for cutout in store.cut_out(chosen, photos):
                if cutout.failure:
                    failed.append(cutout)
                elif cutout.empty:
                    empty.append(cutout.image)
                if cutout.dice:
                    dices[cutout.image] = cutout.dice
                    doubtful = sorted([*doubtful, cutout], key=_doubt)[:SHOWN]
                if not cutout.failure or format == "submission":
                    write(cutout.model_copy(update={"image": names.get(cutout.image, cutout.image)}))
                advance(cutout.image)
        record = PredictRecord(
            model=chosen.digest(),
            format=format,
            images=len(photos),
            failed=len(failed),
            passed_over=passed_over,
            shard=shard,
        )
        _write_failed(folder, failed)
        _write_dices(folder, dices)
        _write_doubtful(folder, record, doubtful, photos, store)
        (folder / RECORD).write_text(record.model_dump_json(indent=1, exclude_none=True) + "\n", encoding="utf-8")
    store.clear()
    if empty:
        log(f"No product was found in {count(len(empty), 'photograph')}, such as {empty[0]}")
    return record


def find_record(out: str) -> PredictRecord | None:
    """The record of a finished output; None if there is none.

    Raises:
        DataError: if it's damaged.
        StorageError: if it can't be read.
    """
    address = storage.within(out, RECORD)
    if not storage.exists(address):
        return None
    try:
        return parse(PredictRecord, parse_json(storage.read_bytes(address)), address)
    except (ValueError, ConfigError) as error:
        raise DataError(f"{address} is damaged ({shorten(error)})", "Remove its folder, and predict again") from error


@working("predicting")
def predict_one(
    data: bytes,
    members: Sequence[str] = (),
    model: str | None = None,
    ensemble: str | None = None,
    format: Format = "cutout",  # noqa: A002  # as above
    options: PictureOptions = PLAIN,
) -> bytes:
    """The picture of one photograph; the parameters are those of `predict`, but for `data`, the photograph's file.

    Raises:
        DataError: if it isn't a photograph that can be read.
        ConfigError: if the format isn't a picture's; otherwise as `predict`.
        MemberError: as `predict`.
        TrackingError: as `predict`.
        StorageError: as `predict`.
    """
    pictures = pictures_of(format, options) or Pictures("mask")
    if format in TABLES:
        raise ConfigError(f"{format} is not a picture", "Use cutout, mask or alpha, or write to a folder with --out")
    image = decode_photo(data, "The photograph")
    chosen = _open(members, model, ensemble)
    (outcome,) = chosen.outcomes([chosen.prepare(image)], with_probability=True)
    assert outcome.probability is not None
    return pictures.draw(image, outcome.probability, chosen.cut(outcome, ""))


def read_background(text: str) -> Color | Image:
    """The background that `--background` names: a color, or the picture (H, W, 3) RGB in a file.

    Raises:
        ConfigError: if it is neither a color nor a file.
        DataError: if it isn't a picture that can be read.
        StorageError: if it can't be read.
    """
    if storage.is_remote(text) or storage.is_url(text) or Path(text).exists():
        return decode_photo(storage.read_bytes(text), text)
    try:
        return parse_color(text)
    except ConfigError as error:
        raise ConfigError(f"{text} is neither a color nor a file", error.remedy) from error


def pictures_of(format: Format, options: PictureOptions) -> Pictures | None:  # noqa: A002  # as above
    """The pictures that a format draws into the store; masks are drawn from run lengths."""
    given = options.type != PLAIN.type or options.background is not None or options.crop is not None
    if format != "cutout" and given:
        raise ConfigError(f"--background, --crop and --type are of no use with --format {format}", "Leave them out")
    if format == "cutout":
        return Pictures("cutout", options)
    return Pictures("alpha") if format == "alpha" else None


def _require_own(out: str, shard: Shard) -> None:
    """Makes sure that a share doesn't replace another one, which nothing else would have then."""
    record = find_record(out)
    other = record and record.shard
    if other and (other.number, other.count) != (shard.number, shard.count):
        what = f"{out} has the results of share {other.number}/{other.count}"
        raise StorageError(what, f"Name another place for share {shard}")


def _find(
    images: str | Sequence[str] | Shard,
    skipped: Collection[Path],
    format: Format,  # noqa: A002  # as above
    pictures: Pictures | None,
) -> tuple[Sequence[Source], tuple[PassedOver, ...], ShardRecord | None]:
    """The photographs, the other files, and the share that they are, if they are one."""
    if not isinstance(images, Shard):
        return *find_photographs([images] if isinstance(images, str) else images, skipped), None
    names = list_names(images.images, skipped) if images.names is None else images.names
    photos = find_shard(images, names)
    chosen = tuple(photo.name for photo in photos)
    listing = storage.sha256(json.dumps(names).encode())
    return (
        photos,
        (),
        ShardRecord(
            number=images.number, count=images.count, listing=listing, style=style_of(format, pictures), names=chosen
        ),
    )


def _require_free(photos: Iterable[str], out: str) -> None:
    """Makes sure that no picture's folder has the name of a table or page beside the pictures."""
    taken = next((path for path in map(PurePosixPath, photos) if path.parts[0].casefold() in (*OWN, *MERGED)), None)
    if taken and len(taken.parts) > 1:
        what = f"{taken} lies in a folder that is named like {out}/{taken.parts[0]}, a file of the results"
        raise DataError(what, f"Rename the folder, or predict {taken.parts[0]} by itself")


def style_of(format: Format, pictures: Pictures | None) -> str:  # noqa: A002  # as above
    """sha256 of all that determines how results look."""
    return storage.sha256(json.dumps([format, pictures and pictures.digest()]).encode())


def _check(photos: Sequence[Source], format: Format, sample: str) -> dict[str, str]:  # noqa: A002  # as above
    """Each photograph's name as the sample has it."""
    if format != "submission":
        raise ConfigError("--sample-submission is of no use without --format submission", "Leave one out, or add one")
    return check_names([photo.name for photo in photos], sample)


def _open(members: Sequence[str], model: str | None, ensemble: str | None) -> EnsembleModel:
    if bool(members) == bool(model):
        raise MemberError("Either members or a model must be named", "Set one of --members and --model")
    if model is None:
        config = None if ensemble is None else find_ensemble(ensemble)
        return gather([open_member(address) for address in members], config)
    if ensemble is not None:
        raise ConfigError(f"{model} has its own ensemble", "Leave --ensemble out")
    from backdrop.tracking.registry import require_version  # slow: imports mlflow
    from backdrop.tracking.students import outdated
    from backdrop.tracking.version_files import fetch

    version = require_version(model)
    if note := outdated(version.name, version.version):
        log(note)
    return load_ensemble(fetch(version))


def _unfinished(out: str) -> Path:
    """The folder that keeps what is done until all is: beside `out`, or in the cache if that is in S3."""
    return storage.cache_folder() / "predicting" if storage.is_remote(out) else Path(f"{Path(out)}{PARTIAL}")


@contextlib.contextmanager
def _writer(store: PredictionStore, folder: Path, format: Format) -> Iterator[Callable[[Cutout], object]]:  # noqa: A002  # as above
    """Yields a function that writes one photograph's result."""
    if format == "submission":
        with open_submission(folder / SUBMISSION) as write_row:
            yield lambda cutout: write_row(cutout.image, cutout.rle)
    elif format == "rle":
        with (folder / RUNS).open("w", encoding="utf-8", newline="") as file:
            rows = csv.writer(file, lineterminator="\n")
            rows.writerow(RUNS_HEAD)
            yield lambda cutout: rows.writerow([stem(cutout.image), cutout.height, cutout.width, cutout.rle])
    else:
        yield partial(_write_mask if format == "mask" else partial(_link_picture, store), folder)


def stem(image: str) -> str:
    """A photograph's name without its suffix, but with its folder."""
    return str(PurePosixPath(image).with_suffix(""))


def _write_mask(folder: Path, cutout: Cutout) -> None:
    mask = decode_rle(cutout.rle, cutout.height, cutout.width)
    path = folder / f"{stem(cutout.image)}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(encode_png(mask))


def _link_picture(store: PredictionStore, folder: Path, cutout: Cutout) -> None:
    """Puts a finished picture into the output; it stays in the store, too, until the output is whole."""
    path = folder / f"{stem(cutout.image)}{Path(cutout.picture).suffix}"
    path.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(store.folder / cutout.picture, path)
    except OSError:  # a file system without hard links
        shutil.copyfile(store.folder / cutout.picture, path)


def _write_dices(folder: Path, dices: Mapping[str, DiceRange]) -> None:
    if dices:
        rows = sorted(([name, *(f"{value:.4f}" for value in found)] for name, found in dices.items()), key=doubt)
        (folder / DICES).write_bytes(dump_table(DICES_HEAD, rows))


def doubt(row: Sequence[str]) -> tuple[float, str]:
    """The order of rows of `predictions.csv`: the most doubtful photograph first."""
    return float(row[1]), row[0]


def _doubt(cutout: Cutout) -> tuple[float, str]:
    """The order of `predictions.csv`."""
    assert cutout.dice is not None
    return cutout.dice.dice, cutout.image


def _write_doubtful(
    folder: Path, record: PredictRecord, doubtful: Sequence[Cutout], photos: Sequence[Source], store: PredictionStore
) -> None:
    """Writes the contact sheet of the most doubtful photographs."""
    paths = {photo.name: photo.path for photo in photos} if doubtful else {}
    figures = []
    for cutout in doubtful:
        try:
            with opened_image(paths[cutout.image]) as image:
                figures.append(render_figure(cutout, image, store.folder))
        except DataError as error:  # it has vanished since it was predicted; its result is there
            log(f"{DOUBTFUL} leaves a photograph out: {error.what}")
    if figures:
        (folder / DOUBTFUL).write_text(render_doubtful(record.model, figures, record.images), encoding="utf-8")


def _write_failed(folder: Path, failed: Sequence[Cutout]) -> None:
    if failed:
        rows = ([cutout.image, cutout.failure] for cutout in failed)
        (folder / FAILED).write_bytes(dump_table(FAILED_HEAD, rows))
