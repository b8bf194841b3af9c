"""The files that MLflow holds for a run or a model: they can be deleted or truncated while the run stays."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote, urlsplit

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


def local_artifacts(uri: str) -> Path | None:
    """The folder of artifacts on this machine; None if they are elsewhere."""
    parts = urlsplit(uri)
    if parts.scheme == "file":
        return Path(unquote(parts.path))
    return Path(uri) if not parts.scheme else None
