"""`check`: finds all faults of a dataset before anything is spent."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from backdrop.common.errors import DataError
from backdrop.common.progress import working
from backdrop.config import Ensemble, find_ensemble
from backdrop.config.records import Record
from backdrop.data.dataset import Fault, list_dataset
from backdrop.data.listing import PassedOver, printable
from backdrop.data.metadata import METADATA, find_metadata, read_metadata
from backdrop.data.validation import Look, in_order, inspect


class CheckReport(Record):
    """A dataset's counts, its faults, and the files that were passed over.

    `digest` covers all photographs and masks.
    """

    data: str
    objects: int
    images: int
    views: tuple[str, ...]
    sizes: tuple[str, ...]
    digest: str
    faults: tuple[Fault, ...]
    passed_over: tuple[PassedOver, ...] = ()

    @property
    def errors(self) -> list[Fault]:
        """The faults that stop a pipeline."""
        return [fault for fault in self.faults if fault.level == "error"]


@working("checking the dataset")
def check(data: str, ensembles: Sequence[str] = (), objects: int | None = None) -> CheckReport:
    """Checks every photograph and mask of a dataset.

    Args:
        data: the dataset, a folder or an `s3://` prefix.
        ensembles: shipped ensembles' names or YAML files' paths, to find what their recipes can't use.
        objects: only this number of objects, the first by name, as `split` takes them.

    Raises:
        ConfigError: if there is no such ensemble, or it isn't valid.
        DataError: if there are no photographs.
        StorageError: if the folder or the prefix can't be read.
    """
    chosen = [find_ensemble(name) for name in ensembles]
    dataset = list_dataset(data).first(objects)
    inspection = inspect(dataset)
    faults = [*inspection.faults, *_misfits(chosen, inspection.looks), *_unknown_slices(chosen, dataset.root)]
    photos = dataset.photos.values()
    unnamed = [PassedOver(file=fault.file, reason=fault.what) for fault in dataset.unlabeled_faults]
    return CheckReport(
        data=printable(data),
        objects=len({photo.object for photo in photos}),
        images=len(photos),
        views=tuple(sorted({photo.view for photo in photos})),
        sizes=inspection.sizes,
        digest=inspection.digest,
        faults=tuple(in_order(faults)),
        passed_over=(*dataset.passed_over, *unnamed),
    )


def _unknown_slices(ensembles: Sequence[Ensemble], root: Path) -> Iterator[Fault]:
    """What `metadata.csv` lacks of the ensembles' slices, or else why it can't be read."""
    _, fault = find_metadata(root)
    needed = [one for one in ensembles if one.gate.metadata_columns]
    if fault and not needed:
        file = printable(root / METADATA)
        what = f"{fault.removeprefix(f'{file} ')}, so reports have no slices by it"
        yield Fault(level="warning", file=file, what=what, remedy="Correct it, or rename it")
    for ensemble in needed:
        try:
            read_metadata(root, ensemble.gate.metadata_columns)
        except DataError as error:
            what = f"doesn't suit ensemble {ensemble.name}: {error.what}"
            yield Fault(level="error", file=printable(root / METADATA), what=what, remedy=error.remedy)


def _misfits(ensembles: Sequence[Ensemble], looks: Sequence[Look]) -> list[Fault]:
    if not ensembles:
        return []
    from backdrop.training.preconditions import find_misfits  # slow: it builds networks

    return [fault for ensemble in ensembles for fault in find_misfits(ensemble, looks)]
