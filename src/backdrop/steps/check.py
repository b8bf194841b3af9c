"""`check`: everything that can be wrong with a dataset, before anything is spent."""

from backdrop.config.records import Record
from backdrop.data.dataset import Fault, list_dataset
from backdrop.data.listing import PassedOver, printable
from backdrop.data.validation import inspect


class CheckReport(Record):
    """What a dataset holds, what is wrong with it, and which files were passed over.

    `digest` is that of all its photographs and masks.
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
        """Those faults that stop a pipeline."""
        return [fault for fault in self.faults if fault.level == "error"]


def check(data: str) -> CheckReport:
    """Looks at every photograph and mask of a dataset.

    Args:
        data: the dataset, a folder or an `s3://` prefix.

    Raises:
        DataError: if there are no photographs.
        StorageError: if the folder or the prefix can't be read.
    """
    dataset = list_dataset(data)
    found = inspect(dataset)
    photos = dataset.photos.values()
    unnamed = [PassedOver(file=fault.file, reason=fault.what) for fault in dataset.unlabeled_faults]
    return CheckReport(
        data=printable(data),
        objects=len({photo.object for photo in photos}),
        images=len(photos),
        views=tuple(sorted({photo.view for photo in photos})),
        sizes=found.sizes,
        digest=found.digest,
        faults=found.faults,
        passed_over=(*dataset.passed_over, *unnamed),
    )
