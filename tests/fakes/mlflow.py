"""A real MLflow server with a store of its own."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from backdrop.tracking.server import serve
from tests.fakes.http import free_port


@contextlib.contextmanager
def local_server(folder: Path, port: int | None = None) -> Iterator[str]:
    """Runs `mlflow server` while the block lasts; clients send artifacts through it.

    Args:
        folder: for its database, artifacts and `server.log`; existing ones are used again.
        port: of 127.0.0.1; None for a free one.

    Yields:
        Its address.
    """
    folder = folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    artifacts = ("--artifacts-destination", str(folder / "artifacts"))
    with serve(folder / "mlflow.db", artifacts, folder / "server.log", port or free_port()) as address:
        yield address
