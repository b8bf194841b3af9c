"""Names from outside, such as S3 keys or a registry's tags, before they become paths."""

from backdrop.common.errors import StorageError, shorten

MAX_BYTES = 255  # of one name, on common file systems


def is_plain(name: str) -> bool:
    """Whether a name has neither a backslash nor a control character."""
    return not any(letter in "\\\x7f" or ord(letter) < ord(" ") for letter in name)


def checked_name(name: str, origin: str, folders: bool = True) -> str:
    """The name of a file below a folder, unless it could lead anywhere else.

    Args:
        name: the file's name, with `/` between folders.
        origin: where the name is from, for the error.
        folders: whether it may have folders.

    Raises:
        StorageError: if it's absolute, has `.`, `..` or an empty part, a backslash or a control character, or a part
            of more than 255 bytes.
    """
    parts = name.split("/")
    if name and "" in parts:
        what = f"{origin} has {shorten(repr(name))}, which begins or ends with a slash, or has two in a row"
        raise StorageError(what, "Leave out the slash")
    if not {"", ".", ".."}.isdisjoint(parts) or "\\" in name or (len(parts) > 1 and not folders):
        raise StorageError(f"{origin} has {shorten(repr(name))}, which leads out of the folder", "Rename it")
    too_long = any(len(part.encode(errors="surrogatepass")) > MAX_BYTES for part in parts)
    if too_long or not is_plain(name):
        raise StorageError(f"{origin} has {shorten(repr(name))}, which can't be a file's name", "Rename it")
    return name
