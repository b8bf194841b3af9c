"""Writes the table of values in the chart's README from the comments in its values.yaml: `python charts/readme.py`.

Every key has a comment above it. `# --` begins the description of a value, as helm-docs reads it; everything below that
key belongs to its default. Any other comment describes a section, whose keys have comments of their own. `--check`
writes nothing, and exits with 1 if the table is out of date.
"""

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

CHART = Path(__file__).parent / "backdrop"
BEGIN, END = "<!-- values: made by charts/readme.py -->\n", "<!-- end of values -->\n"
KEY = re.compile(r"( *)([\w.-]+):")


def rows(text: str) -> Iterator[tuple[str, Any, str]]:
    """Yields the key, default (None for a section) and meaning of every value.

    Raises:
        ValueError: if a key has no comment.
    """
    values = yaml.safe_load(text)
    path: list[str] = []  # of the section that a key is in
    comment = ""
    for line in text.splitlines():
        if line.lstrip().startswith("#"):
            comment = f"{comment} {line.lstrip('# ')}".strip()
        elif not line:
            comment = ""
        elif (key := KEY.match(line)) and len(key[1]) <= 2 * len(path):
            path = [*path[: len(key[1]) // 2], key[2]]
            if not comment:
                raise ValueError(f"{'.'.join(path)} has no comment in values.yaml")
            section = not comment.startswith("-- ")
            yield ".".join(path), None if section else _at(values, path), comment.removeprefix("-- ")
            path = path if section else path[:-1]
            comment = ""


def readme() -> str:
    """Returns the README with a table made from values.yaml."""
    before, rest = (CHART / "README.md").read_text(encoding="utf-8").split(BEGIN)
    lines = ["| value | default | meaning |", "| --- | --- | --- |"]
    for name, default, meaning in rows((CHART / "values.yaml").read_text(encoding="utf-8")):
        shown = f"**{name}** | " if default is None else f"`{name}` | `{json.dumps(default)}`"
        lines.append(f"| {shown} | {meaning} |")
    return before + BEGIN + "\n".join(lines) + "\n" + END + rest.split(END)[1]


def _at(values: Any, path: list[str]) -> Any:
    for key in path:
        values = values[key]
    return values


def main() -> None:
    """Writes the README, or checks it with `--check`."""
    wanted = readme()
    if "--check" not in sys.argv:
        (CHART / "README.md").write_text(wanted, encoding="utf-8")
    elif wanted != (CHART / "README.md").read_text(encoding="utf-8"):
        sys.exit("charts/backdrop/README.md is out of date. Run: make generate")


if __name__ == "__main__":
    main()
