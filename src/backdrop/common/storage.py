"""Local files and S3 objects, written atomically.

An address is a local path or `s3://bucket/key`.
"""

import contextlib
import errno
import hashlib
import http.client
import os
import posixpath
import shutil
import tempfile
import urllib.request
from collections.abc import Iterator
from itertools import chain
from pathlib import Path

from backdrop.common import s3
from backdrop.common.errors import StorageError, shorten
from backdrop.common.progress import log, progress
from backdrop.common.redact import without_credentials
from backdrop.common.retry import workers
from backdrop.common.words import count

URL_TIMEOUT_S = 60


def is_remote(address: str | Path) -> bool:
    """Whether the address is in S3."""
    return str(address).startswith("s3://")


def absolute(address: str) -> str:
    """The absolute address, valid in any working folder."""
    return address if is_remote(address) else str(Path(address).absolute())


def parent(address: str) -> str:
    """The absolute folder or prefix of a file."""
    return address.rpartition("/")[0] if is_remote(address) else str(Path(address).absolute().parent)


def join(folder: str, address: str) -> str:
    """An address relative to a folder or `s3://` prefix; absolute paths and URLs don't change."""
    if "://" in address or Path(address).is_absolute():
        return address
    scheme, separator, path = folder.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(f'{path}/{address}')}"


def sha256(data: bytes) -> str:
    """The sha256 of bytes as hex digits."""
    return hashlib.sha256(data).hexdigest()


def cache_folder() -> Path:
    """The cache folder: `BACKDROP_CACHE`, or `~/.cache/backdrop`."""
    return Path(os.environ.get("BACKDROP_CACHE") or Path.home() / ".cache" / "backdrop")


def read_bytes(address: str | Path) -> bytes:
    """The content of a file: a path, an `s3://` or an `https://` address.

    Raises:
        StorageError: if it doesn't exist or can't be read.
    """
    if is_remote(address):
        return s3.read(str(address))
    if str(address).startswith(("https://", "http://")):
        return _download_url(str(address))
    path = Path(address)
    try:
        if path.exists() and not path.is_file() and not path.is_dir():  # a pipe or a device might never end
            raise StorageError(f"{address} is not a regular file", "Save its content in a file")
        return path.read_bytes()
    except OSError as error:
        raise StorageError(f"{address} can't be read ({error.strerror})", "Check the path") from error


def write_bytes(address: str | Path, data: bytes) -> None:
    """Writes a file atomically, and creates its folder.

    Raises:
        StorageError: if it can't be written.
    """
    if is_remote(address):
        s3.write(str(address), data)
        return
    target = Path(address)
    with disk_errors(target):
        if target.exists() and not target.is_file() and not target.is_dir():  # root could replace a device
            raise StorageError(f"{target} is not a regular file", "Use another path")
        with _temporary_beside(target) as temporary:
            temporary.write_bytes(data)
            os.replace(temporary, target)


@contextlib.contextmanager
def output_folder(address: str | Path, key_file: str) -> Iterator[Path]:
    """A temporary folder that becomes the folder `address` if the block succeeds, and is removed if it fails.

    Args:
        address: the final folder. The output of an earlier run there is replaced.
        key_file: the file that marks the output of a run; in S3 it is uploaded last.

    Raises:
        StorageError: if `address` has other content, or can't be written.
    """
    remote = is_remote(address)
    target = cache_folder() / "outgoing" if remote else Path(address)
    if not remote and target.exists() and not (target / key_file).is_file() and _has_content(target):
        raise StorageError(
            f"{target} exists and is not the output of an earlier run (no {key_file})", "Use another --out"
        )
    with disk_errors(target), _temporary_beside(target) as temporary:
        temporary.mkdir()
        yield temporary
        if remote:
            upload_folder(temporary, str(address), key_file)
        else:
            _replace_folder(temporary, target)


def upload_folder(folder: Path, address: str, key_file: str) -> int:
    """Copies a folder to S3, `key_file` last, so that a folder with that file is complete.

    Each object has its sha256 in its metadata; unchanged objects aren't uploaded again.

    Returns:
        The number of uploaded objects.

    Raises:
        StorageError: if an upload fails.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    rest, last = [[path for path in files if (path == folder / key_file) == is_key] for is_key in (False, True)]

    def upload(path: Path) -> bool:
        return s3.upload(path, f"{address.rstrip('/')}/{path.relative_to(folder).as_posix()}")

    with progress("uploading files", len(files), lasting=False) as advance, workers(s3.THREADS) as pool:
        count = 0
        for uploaded in chain(pool.map(upload, rest), map(upload, last)):
            count += uploaded
            advance()
    return count


def exists(address: str | Path) -> bool:
    """Whether the file exists.

    Raises:
        StorageError: if S3 doesn't answer.
    """
    return s3.metadata(str(address)) is not None if is_remote(address) else Path(address).is_file()


def list_files(address: str | Path) -> list[str]:
    """Names of the files below a folder or prefix, sorted, without hidden ones; none if it doesn't exist.

    Raises:
        StorageError: if S3 doesn't answer.
    """
    if is_remote(address):
        return [name for name, *_ in s3.listing(str(address))]
    folder = Path(address)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return [name for name in names if not any(part.startswith(".") for part in name.split("/"))]


def remove_folder(address: str | Path, key_file: str | None = None) -> None:
    """Deletes a folder or prefix, `key_file` first, so that an incomplete folder doesn't have that file.

    Raises:
        StorageError: if S3 rejects it.
    """
    if not is_remote(address):
        if key_file:
            (Path(address) / key_file).unlink(missing_ok=True)
        shutil.rmtree(address, ignore_errors=True)
        return
    for name in sorted(list_files(address), key=lambda name: name != key_file):
        s3.delete(f"{str(address).rstrip('/')}/{name}")


def local_folder(address: str | Path) -> Path:
    """A local folder with the content of `address`: the folder itself, or a cached copy of an S3 prefix.

    The copy is in the cache under a digest of the prefix's listing (keys, sizes, ETags), so a changed prefix gets a new
    folder, and an interrupted copy is never used. Files of an earlier copy whose size has changed are copied again.

    Raises:
        StorageError: if the folder or prefix doesn't exist, or S3 doesn't answer.
    """
    if not is_remote(address):
        folder = Path(address)
        if not folder.is_dir():
            raise StorageError(f"{folder} is not a folder", "Check the path")
        return folder
    listing = s3.listing(str(address))
    if not listing:
        raise StorageError(f"{address} has no objects", "Check bucket and prefix")
    digest = sha256(repr([(str(address), *entry) for entry in listing]).encode())
    folder = cache_folder() / "datasets" / digest
    if not folder.is_dir():
        with disk_errors(folder), _temporary_beside(folder) as temporary:
            s3.download(str(address), listing, temporary)
            _replace_folder(temporary, folder)
        return folder
    changed = [entry for entry in listing if _size(folder / entry[0]) != entry[1]]
    if changed:
        log(f"{folder / changed[0][0]} has changed since it was copied; copying {count(len(changed), 'file')} again")
        with disk_errors(folder), _temporary_beside(folder) as temporary:
            s3.download(str(address), changed, temporary)
            for name, *_ in changed:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, folder / name)
    return folder


def _size(path: Path) -> int | None:
    """A file's size in bytes; None if there is no file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StorageError that names the file.

    Raises:
        StorageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = "Free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "Check path and permissions"
        raise StorageError(f"{target} can't be written ({error.strerror or error})", remedy) from error


@contextlib.contextmanager
def _temporary_beside(target: Path) -> Iterator[Path]:
    """A temporary path in the target's folder, so that a rename is atomic; removed after the block."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    try:
        yield scratch / target.name
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _replace_folder(source: Path, target: Path) -> None:
    old = source.parent / f"{source.name}.old"
    if target.exists():
        os.replace(target, old)
    os.replace(source, target)


def _has_content(path: Path) -> bool:
    return not path.is_dir() or any(path.iterdir())


def _download_url(address: str) -> bytes:
    if (bare := without_credentials(address)) != address:
        raise StorageError(f"The address {bare} contains credentials", "Download the file, and name the copy")
    try:
        with urllib.request.urlopen(address, timeout=URL_TIMEOUT_S) as answer:  # noqa: S310  # the scheme was checked
            body: bytes = answer.read()
            return body
    except (OSError, http.client.HTTPException) as error:
        what = f"{address} can't be read ({shorten(error)})"
        raise StorageError(what, "Check the address, or download the file") from error
