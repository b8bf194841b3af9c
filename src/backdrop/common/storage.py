"""Local files and S3 objects, written atomically.

An address is a local path or `s3://bucket/key`.
"""

import contextlib
import hashlib
import http.client
import os
import posixpath
import re
import shutil
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Collection, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

from backdrop.common import s3
from backdrop.common.errors import REMEDIES, StorageError, shorten
from backdrop.common.names import checked_name
from backdrop.common.progress import log, progress
from backdrop.common.redact import without_credentials
from backdrop.common.retry import workers
from backdrop.common.temporary import temporary_beside
from backdrop.common.words import count

CACHE = "BACKDROP_CACHE"
URL_TIMEOUT_S = 60
ELSEWHERE = re.compile(r"(?!(s3|https?)://)\s*(?i:[a-z][a-z0-9+.-]*://|s3:)")  # S3:// and s3:/ among them
_copied: dict[str, str] = {}  # the addresses of what this process has copies of, by their paths in the cache


def is_remote(address: str | Path) -> bool:
    """Whether the address is in S3."""
    return str(address).startswith("s3://")


def is_url(address: str | Path) -> bool:
    """Whether the address is an `https://` or `http://` one."""
    return str(address).startswith(("https://", "http://"))


def absolute(address: str) -> str:
    """The absolute address, valid in any working folder."""
    return address if is_remote(address) else str(Path(address).absolute())


def parent(address: str) -> str:
    """The absolute folder or prefix of a file."""
    return address.rpartition("/")[0] if is_remote(address) else str(Path(address).absolute().parent)


def require_named(address: str | Path) -> None:
    """Refuses what would be taken for a path: an empty address, as of an unset variable, or one like `s3a://bucket`.

    Raises:
        StorageError: if it's empty, or an address that can't be read.
    """
    if not str(address).strip():
        raise StorageError("An address is empty", "Name a file, a folder or an s3:// address")
    if ELSEWHERE.match(str(address)):
        what = f"{shorten(repr(without_credentials(str(address))))} can't be read"
        raise StorageError(what, "Name a file, a folder or an s3:// address")


def join(folder: str, address: str) -> str:
    """An address relative to a folder or `s3://` prefix; absolute paths and URLs don't change."""
    if "://" in address or Path(address).is_absolute():
        return address
    scheme, separator, path = folder.rpartition("://")
    return f"{scheme}{separator}{posixpath.normpath(f'{path}/{address}')}"


def within(folder: str | Path, name: str) -> str:
    """The address of a file in a folder or `s3://` prefix, which may end in a slash: S3 takes two for another file."""
    return f"{str(folder).rstrip('/')}/{name}"


def sha256(data: bytes) -> str:
    """The sha256 of bytes as hex digits."""
    return hashlib.sha256(data).hexdigest()


def cache_folder() -> Path:
    """The cache folder: `BACKDROP_CACHE`, or `~/.cache/backdrop`."""
    return Path(os.environ.get(CACHE) or Path.home() / ".cache" / "backdrop")


def read_bytes(address: str | Path) -> bytes:
    """The content of a file: a path, an `s3://` or an `https://` address.

    Raises:
        StorageError: if it's empty, doesn't exist or can't be read.
    """
    require_named(address)
    if is_remote(address):
        return s3.read(str(address))
    if is_url(address):
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
    with _replacement(Path(address)) as temporary:
        temporary.write_bytes(data)


def copy_file(path: Path, address: str | Path) -> None:
    """Writes a copy of a file atomically, and creates its folder; the file may be larger than the memory.

    Raises:
        StorageError: if it can't be written.
    """
    if is_remote(address):
        s3.upload(path, str(address))
        return
    with _replacement(Path(address)) as temporary:
        shutil.copyfile(path, temporary)


@contextlib.contextmanager
def _replacement(target: Path) -> Iterator[Path]:
    """A temporary path that becomes the target, whose folder is created, if the block succeeds."""
    with disk_errors(target):
        if target.exists() and not target.is_file() and not target.is_dir():  # root could replace a device
            raise StorageError(f"{target} is not a regular file", "Use another path")
        with temporary_beside(target) as temporary:
            yield temporary
            os.replace(temporary, target)


def upload_folder(folder: Path, address: str, key_file: str, names: Sequence[str] | None = None) -> int:
    """Copies a folder to S3, `key_file` last, so that a folder with that file is complete.

    With `names`, only these files are copied. Whatever is there is replaced: `common.outputs` looks first.

    Each object has its sha256 in its metadata; unchanged objects aren't uploaded again.

    Returns:
        The number of uploaded objects.

    Raises:
        StorageError: if an upload fails.
    """
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    if names is not None:
        files = [folder / name for name in names]
    rest, last = [[path for path in files if (path == folder / key_file) == is_key] for is_key in (False, True)]

    def upload(path: Path) -> bool:
        return s3.upload(path, f"{address.rstrip('/')}/{path.relative_to(folder).as_posix()}")

    with progress("uploading files", len(files), lasting=False) as advance, workers(s3.THREADS) as pool:
        count = 0
        for uploaded in chain(pool.map(upload, rest), map(upload, last)):
            count += uploaded
            advance()
    return count


def set_aside(address: str) -> str:
    """Gives a damaged file another name, so that it can be written again and nothing is lost.

    Returns:
        Its new address, which ends in the first 8 digits of its sha256.

    Raises:
        StorageError: if it can't be read, written or removed.
    """
    data = read_bytes(address)
    kept = f"{address}.{sha256(data)[:8]}"
    write_bytes(kept, data)
    if is_remote(address):
        s3.delete(address)
    else:
        with disk_errors(Path(address)):
            Path(address).unlink()
    return kept


def exists(address: str | Path) -> bool:
    """Whether the file exists: a path, an `s3://` or an `https://` address.

    Raises:
        StorageError: if S3 or the URL's server doesn't answer.
    """
    if is_url(address):
        return _url_exists(str(address))
    return s3.head(str(address)) is not None if is_remote(address) else Path(address).is_file()


def list_files(address: str | Path, hidden: bool = False) -> list[str]:
    """Names of the files below a folder or prefix, sorted, without what vanishes meanwhile; none if it doesn't exist.

    Args:
        address: the folder or prefix.
        hidden: with those whose name, or that of a folder above them, begins with a dot.

    Raises:
        StorageError: if S3 doesn't answer, or an object's name can't be a file's.
    """
    if is_remote(address):
        names = [checked_name(name, str(address)) for name, *_ in s3.listing(str(address))]
    else:
        below = (Path(root, name) for root, _, files in os.walk(address) for name in files)
        names = sorted(path.relative_to(address).as_posix() for path in below if path.is_file())
    return [name for name in names if hidden or not any(part.startswith(".") for part in name.split("/"))]


def local_folder(address: str | Path, names: Collection[str] | None = None) -> Path:
    """A local folder with the content of `address`: the folder itself, or a cached copy of an S3 prefix.

    With `names`, only these files of a prefix are copied.

    The copy is in the cache under a digest of the prefix's listing (keys, sizes, ETags), so a changed prefix gets a new
    folder, and an interrupted copy is never used. Files of an earlier copy whose size has changed are copied again.

    Raises:
        StorageError: if the address is empty, the folder or prefix doesn't exist, or S3 doesn't answer.
    """
    require_named(address)
    if not is_remote(address):
        folder = Path(address)
        if not folder.is_dir():
            raise StorageError(f"{without_credentials(str(address))} is not a folder", "Check the path")
        return folder
    listing = s3.listing(str(address))
    if not listing:
        raise StorageError(f"{address} has no objects", "Check bucket and prefix")
    # Without the time, which changes with an equal upload.
    entries = [entry[:3] for entry in listing if names is None or entry.name in names]
    digest = sha256(repr([(str(address), *entry) for entry in entries]).encode())
    folder = cache_folder() / "datasets" / digest
    _copied[str(folder)] = str(address).rstrip("/")
    if not folder.is_dir():
        with disk_errors(folder), temporary_beside(folder) as temporary:
            s3.download(str(address), entries, temporary)
            try:
                os.replace(temporary, folder)
            except OSError:
                if not folder.is_dir():  # or else another process was faster
                    raise
        return folder
    changed = [entry for entry in entries if _size(folder / checked_name(entry[0], str(address))) != entry[1]]
    if changed:
        log(f"{folder / changed[0][0]} has changed since it was copied; copying {count(len(changed), 'file')} again")
        with disk_errors(folder), temporary_beside(folder) as temporary:
            s3.download(str(address), changed, temporary)
            for name, *_ in changed:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                os.replace(temporary / name, folder / name)
    return folder


def local_file(address: str) -> Path:
    """A cached copy of an S3 object, with its name.

    Raises:
        StorageError: if the object doesn't exist, or S3 doesn't answer.
    """
    data = read_bytes(address)
    name = checked_name(address.rpartition("/")[2], address)
    copy = cache_folder() / "objects" / sha256(data) / name
    _copied[str(copy)] = address
    if _size(copy) != len(data):
        write_bytes(copy, data)
    return copy


def origin(path: str | Path) -> str:
    """A path as messages name it: the address in S3 of what this process has copied from there."""
    text = str(path)
    for copy, address in list(_copied.items()):  # another thread may add one
        if text == copy or text.startswith(f"{copy}/"):
            return address + text[len(copy) :]
    return text


def _size(path: Path) -> int | None:
    """A file's size in bytes; None if there is no file."""
    try:
        return path.stat().st_size
    except OSError:
        return None


@contextlib.contextmanager
def disk_errors(target: Path) -> Iterator[None]:
    """Turns an OSError of the block into a StorageError that names the file, and for the cache its variable.

    Raises:
        StorageError: instead of an OSError.
    """
    try:
        yield
    except OSError as error:
        remedy = REMEDIES.get(error.errno or 0, "Check path and permissions")
        if _is_cached(target):
            remedy = f"{remedy}, or set {CACHE} to a folder elsewhere"
        raise StorageError(f"{target} can't be written ({error.strerror or error})", remedy) from error


def _is_cached(path: Path) -> bool:
    with contextlib.suppress(RuntimeError):  # there is no home folder, and so no cache
        return path.absolute().is_relative_to(cache_folder().absolute())
    return False


def _download_url(address: str) -> bytes:
    with _opened(urllib.request.Request(address)) as answer:  # noqa: S310  # the scheme was checked
        body: bytes = answer.read()
        return body


def _url_exists(address: str) -> bool:
    try:
        with _opened(urllib.request.Request(address, method="HEAD")):  # noqa: S310  # as above
            return True
    except StorageError as error:
        if getattr(error.__cause__, "code", None) == 404:
            return False
        raise


@contextlib.contextmanager
def _opened(request: urllib.request.Request) -> Iterator[Any]:
    address = request.full_url
    if not urllib.parse.urlsplit(address).hostname:
        raise StorageError(f"{address} has no host", "Write it as https://host/file")
    if (bare := without_credentials(address)) != address:
        raise StorageError(f"The address {bare} contains credentials", "Download the file, and name the copy")
    try:
        with urllib.request.urlopen(request, timeout=URL_TIMEOUT_S) as answer:  # noqa: S310  # as above
            yield answer
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, urllib.error.HTTPError):
            error.close()
        what = f"{address} can't be read ({shorten(error)})"
        raise StorageError(what, "Check the address, or download the file") from error
