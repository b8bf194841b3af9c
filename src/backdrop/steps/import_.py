"""`import`: makes a dataset from a folder as phones, cut-out services and labeling tools leave it."""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from backdrop.common import storage
from backdrop.common.errors import ConfigError, DataError, StorageError
from backdrop.common.lock import hold
from backdrop.common.names import MAX_BYTES
from backdrop.common.outputs import inspect, output_folder, require
from backdrop.common.places import checked_address
from backdrop.common.text import dump_table
from backdrop.common.threads import in_threads
from backdrop.config.records import Record
from backdrop.data.dataset import FOLDERS
from backdrop.data.importing.convert import convert
from backdrop.data.importing.naming import UNNAMED, Name, name_photos
from backdrop.data.importing.sources import Source, find_sources
from backdrop.data.listing import MASKS, PassedOver, list_images, names_doubt, none_found, printable
from backdrop.data.masks import encode_png

STEP = "import"
TABLE = "import.csv"
COLUMNS = ["source", "target", "mask", "mask_source", "note"]
NO_MASK = "has no mask, though other photographs of its object have"
TOO_LONG = "would have too long a name by its folders: shorten theirs, or use --pattern"


class ImportRow(Record):
    """A photograph: its source, its files in the dataset, or the reason in `note` why it is left out."""

    source: str
    target: str = ""
    mask: str = ""
    mask_source: str = ""
    note: str = ""


class ImportRecord(Record):
    """All photographs of the folder, its other files, and what makes it doubtful how names were read, if anything."""

    rows: tuple[ImportRow, ...]
    passed_over: tuple[PassedOver, ...]
    doubt: str = ""

    @property
    def left_out(self) -> list[ImportRow]:
        """Photographs that aren't in the dataset."""
        return [row for row in self.rows if not row.target]

    @property
    def missed(self) -> bool:
        """Whether a photograph, or what looks like one, isn't in the dataset."""
        return bool(self.left_out) or any(one.photograph for one in self.passed_over)


@dataclass(frozen=True)
class ImportOptions:
    """Options for reading names and masks.

    Attributes:
        pattern: a regular expression with groups `object` and `view`, searched in paths without their suffix.
        masks: a folder of masks, or a COCO file; None to look beside the photographs.
        labels: of annotations, those to take; all if empty.
        threshold: of soft masks, the level 1..255 from which a pixel is the product.
    """

    pattern: str | None = None
    masks: str | None = None
    labels: tuple[str, ...] = ()
    threshold: int | None = None


def import_photos(source: str, out: str, options: ImportOptions, dry_run: bool = False) -> ImportRecord:
    """Makes a dataset of a folder of photographs. The folder itself isn't touched.

    Args:
        source: the folder, or an `s3://` prefix.
        out: the dataset's folder: new, or one that `import` wrote and nobody has added to.
        options: how names and masks are read.
        dry_run: only say what would be written.

    Raises:
        ConfigError: if the pattern, a label or the threshold makes no sense.
        DataError: if the folder is a dataset already, no photograph can be taken, or it isn't clear which mask belongs
            to which photograph.
        StorageError: if something else stands at `out`, or it can't be written.
    """
    if options.threshold is not None and not 1 <= options.threshold <= 255:
        raise ConfigError(f"--threshold {options.threshold} isn't a level of 1 to 255", "Use 128")
    root = storage.local_folder(source)
    masks = _mask_place(options.masks)
    checked_address(out)
    if masks is None:
        _require_no_dataset(source, root)
    _require_apart(source, out)
    inspect(out, STEP)
    sources = find_sources(root, masks, options.labels)
    names = name_photos([one.name for one in sources.photos], options.pattern)
    duplicates = [ImportRow(source=str(path), note=note) for path, note in sources.duplicates.items()]
    if dry_run:
        rows = _rows(sources.photos, names, options, root, None)
    else:
        require(out, STEP)
        with hold(out, STEP, "OUT", beside=True), output_folder(out, STEP, TABLE) as folder:
            rows = _rows(sources.photos, names, options, root, folder)
            _require_one(source, rows, sources.passed_over)
            table = ([getattr(row, column) for column in COLUMNS] for row in (*rows, *duplicates))
            (folder / TABLE).write_bytes(dump_table(COLUMNS, table))
    _require_one(source, rows, sources.passed_over)
    doubt = _names_doubt([one.name for one, row in zip(sources.photos, rows, strict=True) if row.target], names)
    return ImportRecord(rows=(*rows, *duplicates), passed_over=tuple(sources.passed_over), doubt=doubt)


def _names_doubt(taken: Sequence[PurePosixPath], names: dict[PurePosixPath, Name | None]) -> str:
    read = [(path, name) for path in taken if (name := names[path])]
    doubt = names_doubt(name for _, name in read)
    if not doubt:
        return ""
    path, (product, view) = read[0]
    what = f"{path} was read as object {product}, view {view}, and so {doubt}"
    return f"{what}. If that is wrong, put each object's photographs into a folder of its own, or use --pattern."


def _mask_place(masks: str | None) -> Path | None:
    if masks is None:
        return None
    if masks.lower().endswith(".json"):
        if not Path(masks).is_file():
            raise StorageError(f"{masks} is not a file", "Check the path")
        return Path(masks)
    if Path(masks).is_file():
        raise StorageError(f"{masks} is neither a folder of masks nor JSON", "Export COCO or labelme")
    return storage.local_folder(masks)


def _require_no_dataset(source: str, root: Path) -> None:
    """The folder isn't laid out as a dataset: beside its photographs no masks would be found."""
    if all(list_images(root / name, FOLDERS[name]).images for name in ("train", MASKS)):
        what = f"{source} is laid out as a dataset already, in train/ and {MASKS}/"
        masks = f"{source.rstrip('/')}/{MASKS}"
        raise DataError(what, f"Use it as it is, see `backdrop check`; to convert its masks, add --masks {masks}")


def _require_apart(source: str, out: str) -> None:
    """The dataset and the folder that is imported don't lie within each other."""
    if storage.is_remote(out) or storage.is_remote(source):
        return
    target, inside = (Path(os.path.realpath(path)) for path in (out, source))  # resolve() fails at a circle of links
    if inside == target or inside in target.parents or target in inside.parents:
        raise StorageError(f"{out} and {source} lie within each other", "Name an OUT beside the photographs")


def _require_one(source: str, rows: Sequence[ImportRow], passed_over: Sequence[PassedOver]) -> None:
    if not rows:
        remedy = "Name the folder that they or their folders lie in"
        raise none_found(f"{source} has no photographs", remedy, passed_over)
    if not any(row.target for row in rows):
        first = rows[0]
        more = f" ({len(rows)} photographs in all)" if len(rows) > 1 else ""
        raise DataError(
            f"No photograph of {source} can be taken: {first.source} {first.note.rstrip('.')}{more}", "See --dry-run"
        )


def _rows(
    photos: Sequence[Source],
    names: dict[PurePosixPath, Name | None],
    options: ImportOptions,
    root: Path,
    folder: Path | None,
) -> list[ImportRow]:
    """A row for each photograph; with a folder, its files are written."""
    taken: dict[str, PurePosixPath] = {}
    clashes: dict[PurePosixPath, str] = {}
    for source in photos:
        name = names[source.name]
        stem = "_".join(name).lower() if name else ""
        if len(f"{stem}_mask.png".encode()) > MAX_BYTES:
            clashes[source.name] = TOO_LONG
        elif name and taken.setdefault(stem, source.name) != source.name:
            clashes[source.name] = f"has the object and view of {taken[stem]}"
    if folder is not None:
        for part in ("train", "train_masks"):
            (folder / part).mkdir()
    take = partial(_take, names=names, clashes=clashes, threshold=options.threshold, folder=folder)
    rows = [_relative(row, root) for row in in_threads(take, photos, "importing photographs")]
    labeled = {(names[one.name] or ("",))[0] for one, row in zip(photos, rows, strict=True) if row.mask}
    result = []
    for source, row in zip(photos, rows, strict=True):
        if row.target and not row.mask and (names[source.name] or ("",))[0] in labeled:
            if folder is not None:
                (folder / row.target).unlink()
            row = ImportRow(source=row.source, note=NO_MASK)
        result.append(row)
    return result


def _take(
    source: Source,
    names: dict[PurePosixPath, Name | None],
    clashes: dict[PurePosixPath, str],
    threshold: int | None,
    folder: Path | None,
) -> ImportRow:
    name = names[source.name]
    if name is None or source.name in clashes:
        return ImportRow(source=str(source.name), note=clashes.get(source.name, UNNAMED))
    try:
        pair = convert(source, threshold)
    except DataError as error:
        return ImportRow(source=str(source.name), note=str(error))
    stem = "_".join(name)
    target = f"{'test' if pair.mask is None else 'train'}/{stem}{pair.suffix}"
    mask = "" if pair.mask is None else f"train_masks/{stem}_mask.png"
    if folder is not None:
        (folder / target).parent.mkdir(exist_ok=True)
        (folder / target).write_bytes(pair.data)
        if pair.mask is not None:
            (folder / mask).write_bytes(encode_png(pair.mask))
    return ImportRow(source=str(source.name), target=target, mask=mask, mask_source=pair.origin)


def _relative(row: ImportRow, root: Path) -> ImportRow:
    """The same by paths in the imported folder, wherever that is."""
    start = f"{printable(root)}/"
    changed = {"mask_source": row.mask_source.replace(start, ""), "note": row.note.replace(start, "")}
    return row.model_copy(update=changed)
