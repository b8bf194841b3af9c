"""Every command's help reads well at 80 columns, and ends in an example that its own parser takes."""

import re
import shlex
from collections.abc import Iterator
from typing import Any

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from backdrop.cli.app import app

ROOT: Any = get_command(app)
RUN = CliRunner(env={"COLUMNS": "80", "TERMINAL_WIDTH": "80"})


def commands(group: Any, *path: str) -> Iterator[tuple[str, ...]]:
    """The path of every command and group, the root's is empty."""
    yield path
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, *path, name)


def lookup(path: tuple[str, ...]) -> Any:
    command = ROOT
    for name in path:
        command = command.commands[name]
    return command


ALL = [pytest.param(path, id=" ".join(path) or "backdrop") for path in commands(ROOT)]
LEAVES = [pytest.param(path, id=" ".join(path)) for path in commands(ROOT) if not hasattr(lookup(path), "commands")]


def help_of(path: tuple[str, ...]) -> str:
    result = RUN.invoke(app, [*path, "--help"], prog_name="backdrop")
    assert result.exit_code == 0, result.output
    return result.output


def parse(command: Any, words: list[str], name: str) -> tuple[str, ...]:
    """The path of the command that takes these words, all of which are parsed and none of which is run."""
    context = command.make_context(name, list(words))
    if not hasattr(command, "commands"):
        return ()
    sub, found, rest = command.resolve_command(context, [*context._protected_args, *context.args])
    return (sub, *parse(found, rest, sub))


@pytest.mark.parametrize("path", LEAVES)
def test_a_command_ends_in_an_example_that_it_takes(path: tuple[str, ...]) -> None:
    title, *lines = help_of(path).rpartition("\n\n")[2].strip("\n").splitlines()
    assert title == "  Example:"
    program, *words = shlex.split("\n".join(lines).replace("\\\n", ""))
    assert program == "backdrop"
    assert parse(ROOT, words, "backdrop") == path


@pytest.mark.parametrize("path", ALL)
def test_help_reads_well(path: tuple[str, ...]) -> None:
    text = help_of(path)
    assert text.startswith(" ".join(["Usage: backdrop", *path]))
    assert max(map(len, text.splitlines())) <= 80
    usage = text.partition("\n\n")[0]
    assert not set(usage) & set("{}<>")
    for line in text.splitlines():
        assert not re.search("<[a-z]", line), f"A type where a word should be: {line}"
    _, _, listed = text.partition("\nCommands:\n")
    assert "..." not in listed, "A command's first sentence is too long to be listed whole"
    assert all(line.endswith(".") for line in listed.strip().splitlines())


@pytest.mark.parametrize("path", LEAVES)
def test_every_option_says_what_it_is_and_its_default(path: tuple[str, ...]) -> None:
    text = " ".join(help_of(path).split())
    for parameter in lookup(path).params:
        if parameter.name == "help":
            continue
        assert parameter.help.endswith((".", ":")), parameter.name
        shown = parameter.default
        if isinstance(shown, (int, float, str)) and not isinstance(shown, bool) and shown != "":
            assert f"[default: {shown}" in text, parameter.name


@pytest.mark.parametrize("path", LEAVES)
@pytest.mark.parametrize("empty", ["", " "])
def test_an_empty_value_is_refused_where_it_is_not_the_default(path: tuple[str, ...], empty: str) -> None:
    """A shell's unset variable gives one: it would be the current folder, or stand for nothing."""
    arguments = [one for one in lookup(path).params if one.param_type_name == "argument"]
    for option in lookup(path).params:
        if option in arguments or option.is_flag:
            continue
        said = refusal(path, [*("x" for _ in arguments), f"{option.opts[0]}={empty}"])
        assert (f"{option.opts[0]} is empty. Give it a value" in said) == (option.default != "")
    if any(one.default != "" for one in arguments):
        assert "is empty. Give it a value." in refusal(path, [empty for _ in arguments])


@pytest.mark.parametrize(
    ("line", "name"),
    [
        ("pipeline run demo --data x --work", "--work"),
        ("pipeline compile demo -o", "--out"),
        ("pipeline submit demo --params", "--params"),
        ("pipeline lint", "PACKAGE"),
        ("recipes cp tiny", "OUT"),
        ("ensembles cp compact", "OUT"),
    ],
)
@pytest.mark.parametrize("address", ["s3://results/x", "gs://results/x"])
def test_an_address_is_refused_where_only_a_path_is_understood(line: str, name: str, address: str) -> None:
    """A folder named `s3:` would appear."""
    group, command, *words = line.split()
    said = refusal((group, command), [*words, address])
    assert said == f"{name} can't be {address}. Name a path on this machine."


def refusal(path: tuple[str, ...], words: list[str]) -> str:
    """What is said before the command begins; empty if all words are taken."""
    try:
        lookup(path).make_context("backdrop", list(words)).close()
    except Exception as error:
        return str(error)
    return ""


def test_the_shell_completes_commands() -> None:
    asked = {"_BACKDROP_COMPLETE": "complete_bash", "COMP_WORDS": "backdrop pipeline s", "COMP_CWORD": "2"}
    result = RUN.invoke(app, [], prog_name="backdrop", env=asked)
    assert result.output.split() == ["submit", "schedule", "status"]
    assert "--install-completion" in help_of(())
