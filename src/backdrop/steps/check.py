"""`check`: everything that can be wrong with a dataset, before anything is spent."""

from backdrop.config.records import Record
from backdrop.data.dataset import open_dataset
from backdrop.data.validation import Fault, inspect


class CheckReport(Record):
    """What a dataset holds and what is wrong with it; `digest` is that of all its images and masks."""

    data: str
    objects: int
    images: int
    views: tuple[str, ...]
    sizes: tuple[str, ...]
    digest: str
    faults: tuple[Fault, ...]

    @property
    def errors(self) -> list[Fault]:
        """Those faults that stop a pipeline."""
        return [fault for fault in self.faults if fault.level == "error"]


def check(data: str) -> CheckReport:
    """Looks at every photograph and mask of a dataset.

    Args:
        data: the dataset, a folder or an `s3://` prefix.

    Raises:
        DataError: if there are no photographs, or they aren't named `<object>_<view>`.
        StorageError: if the folder or the prefix can't be read.
    """
    dataset = open_dataset(data)
    found = inspect(dataset)
    photos = dataset.photos.values()
    return CheckReport(
        data=data,
        objects=len({photo.object for photo in photos}),
        images=len(photos),
        views=tuple(sorted({photo.view for photo in photos})),
        sizes=found.sizes,
        digest=found.digest,
        faults=found.faults,
    )
