"""Lists, shows and copies shipped YAML, for `backdrop recipes …` and `backdrop ensembles …`."""

import os
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from backdrop.config.catalog import Kind


def list_shipped(kind: "Kind") -> None:
    """Prints the name and description of each shipped recipe or ensemble."""
    from backdrop.config import shipped
    from backdrop.config.records import parse_yaml

    for name, text in shipped(kind).items():
        print(f"{name:28}{parse_yaml(text, name).get('description', '')}")


def show_text(kind: "Kind", name: str) -> None:
    """Prints the YAML unchanged.

    Raises:
        ConfigError: if there is none of this name.
    """
    from backdrop.config import find_text

    print(find_text(kind, name).text, end="")


def copy_text(kind: "Kind", name: str, out: Path) -> None:
    """Writes the YAML to a new file.

    Raises:
        ConfigError: if there is none of this name, or the file's would be taken for a shipped one's.
        StorageError: if the file exists, or can't be written.
    """
    from backdrop.common.errors import StorageError
    from backdrop.common.storage import write_bytes
    from backdrop.config import find_text
    from backdrop.config.catalog import require_path

    text = find_text(kind, name).text
    require_path(str(out))
    if os.path.lexists(out):
        raise StorageError(f"{out} exists", "Use another file")
    write_bytes(out, text.encode())
