"""The files that MLflow holds for a run or a model: they can be deleted or truncated while the run stays."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

from backdrop.common.errors import TrackingError

if TYPE_CHECKING:
    from mlflow.entities import FileInfo


def file_sizes(list_folder: "Callable[[str | None], Sequence[FileInfo]]", folder: str = "") -> dict[str, int]:
    """The sizes in bytes of all files below a folder of artifacts, by their paths in it; none if it doesn't exist.

    Args:
        list_folder: MLflow's call that lists one folder of a run's or model's artifacts.
        folder: the folder's path; empty for all artifacts.

    Raises:
        MlflowException: if there is no such run or model, or the server doesn't answer.
    """
    sizes, prefix = {}, f"{folder}/" if folder else ""
    for entry in list_folder(folder or None):
        if entry.is_dir:
            below = file_sizes(list_folder, entry.path)
            sizes.update({f"{entry.path.removeprefix(prefix)}/{name}": size for name, size in below.items()})
        else:
            sizes[entry.path.removeprefix(prefix)] = int(entry.file_size or 0)
    return sizes


def require_as_listed(folder: Path, sizes: Mapping[str, int], what: str) -> None:
    """Makes sure that files arrived as long as MLflow lists them: a login page comes in a file's place, as a success.

    Args:
        folder: where they were copied to.
        sizes: in bytes, by their paths there.
        what: whose files they are, for messages.

    Raises:
        TrackingError: if one isn't there, or is shorter or longer.
    """
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != size:
            remedy = "Check the server and your login to it, and run the same command again"
            raise TrackingError(f"{name} of {what} didn't arrive as MLflow lists it", remedy)


def local_artifacts(uri: str) -> Path | None:
    """The folder of artifacts on this machine; None if they are elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme else None
