"""An address that names nothing is refused in our own words, whichever argument or option has it."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.main import get_command

from backdrop.cli.app import app
from tests.cli import hostile
from tests.cli.test_hostile_input import whole_workspace, workspace  # noqa: F401  # fixtures

# What arguments and options name files, folders and prefixes by in their help.
METAVARS = "SRC OUT DATA INPUT SHARE CSV YAML FOLDER FILE PATH MEMBER... RECIPE ENSEMBLE SPACE PACKAGE DATA|MODEL MODEL"
ADDRESSES = frozenset({*METAVARS.split(), "COLOR|FILE", "NAME=FOLDER"})
INCOMPLETE = ("s3://", "s3:///x", "s3://photos", "s3://photos/", "s3://ph otos/x", "https://", "http:///x")
# Of boto3 and urllib.
FOREIGN = ("Parameter", "parameter", "regex", "urlopen", "no host given")


def calls(names: Iterable[str]) -> Iterator[tuple[str, tuple[list[str], int]]]:
    """The words of each command that works, and the place of one address among them, by command and parameter."""
    root: Any = get_command(app)
    for call in names:
        words, command, depth = hostile.COMMANDS[call].split(" "), root, 0
        while hasattr(command, "commands"):
            command, depth = command.commands[words[depth]], depth + 1
        arguments = [one for one in command.params if one.param_type_name == "argument"]
        for number, one in enumerate(arguments):
            if one.metavar in ADDRESSES:
                yield f"{' '.join(words[:depth])} {one.metavar}", (words, depth + number)
        for one in command.params:
            if one.param_type_name == "option" and one.metavar in ADDRESSES:
                option = one.opts[0]
                given = words if option in words else [*words, option, ""]
                yield f"{' '.join(words[:depth])} {option}", (given, given.index(option) + 1)


LIGHT, ALL = dict(calls(hostile.LIGHT)), dict(calls(hostile.COMMANDS))


def refuse(call: str, address: str, server: str, folder: Path) -> None:
    words, place = ALL[call]
    given = f"other={address}" if call.endswith("--baseline") else address
    attempt = hostile.run([*words[:place], given, *words[place + 1 :]], {"AWS_ENDPOINT_URL": server}, folder)
    is_prefix = address.startswith("s3://photos")  # a bucket can be written to
    assert attempt.code == 2 or (is_prefix and attempt.code in (0, 1)), attempt
    assert not attempt.faults, attempt
    assert not [word for word in FOREIGN if word in attempt.err], attempt


@pytest.mark.parametrize("call", LIGHT)
def test_a_bucket_is_no_file(call: str, workspace: Path, s3_address: str) -> None:  # noqa: F811
    refuse(call, "s3://photos", s3_address, workspace)


@pytest.mark.slow
@pytest.mark.parametrize("address", INCOMPLETE)
@pytest.mark.parametrize("call", ALL)
def test_an_address_that_names_nothing(
    call: str,
    address: str,
    whole_workspace: Path,  # noqa: F811
    s3_address: str,
) -> None:
    refuse(call, address, s3_address, whole_workspace)
