"""Declares commands: their help names arguments as the docs do, and ends with an example."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand, TyperGroup

from backdrop.common.errors import ConfigError
from backdrop.common.redact import redact

Body = TypeVar("Body", bound=Callable[..., None])
MEMBERS = "--members"
BRACES = str.maketrans("", "", "{}")


@contextmanager
def _redacted() -> Iterator[None]:
    """Typer quotes what it can't use, which may be an address with a password."""
    try:
        yield
    except Exception as error:
        if isinstance(message := getattr(error, "message", None), str):
            vars(error).update(message=redact(message))
        raise


class Group(TyperGroup):
    """A group of commands."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Finds the command that the first word names."""
        with _redacted():
            return super().resolve_command(ctx, args)


class Command(TyperCommand):
    """Shows an argument as `DATA`, where typer has `{DATA}` and `DATA <str>`, and takes `--members A B C`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parses the command line.

        Raises:
            ConfigError: if `--members` took the only word that could be the command's argument.
        """
        names = {name for option in self.params for name in option.opts}
        if MEMBERS not in names or ctx.resilient_parsing:
            return self._parse(ctx, args)
        words = list(self._spread(ctx, args))
        if MEMBERS in args and "--help" not in args and not any(free for free, _ in words):
            needed = next(one.metavar for one in self.params if one.param_type_name == "argument")
            raise ConfigError(f"{needed} is missing", f"Name it before {MEMBERS}, which takes all words that follow it")
        return self._parse(ctx, [word for _, word in words])

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the command's name."""
        return [piece.translate(BRACES) for piece in super().collect_usage_pieces(ctx)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Writes the sections of arguments and options."""
        sections: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for parameter in self.get_params(ctx):
            name, text = parameter.get_help_record(ctx) or ("", "")
            if parameter.param_type_name == "argument":
                sections["Arguments"].append((name.partition(" ")[0], text))
            else:
                sections["Options"].append((name, text))
        for title, rows in sections.items():
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)

    def _parse(self, ctx: Any, args: list[str]) -> list[str]:
        with _redacted():
            values, _, _ = self.make_parser(ctx).parse_args(list(args))
            self._require_filled(values)
            rest = super().parse_args(ctx, args)
        self._require_local(values, ctx.params)
        out = str(ctx.params.get("out") or "")
        if "://" in out and not out.startswith("s3://"):
            raise ConfigError(f"{out} can't be written", "Name a path or an s3:// address")
        return rest

    def _require_filled(self, values: Mapping[str, object]) -> None:
        """Refuses an empty value, as of a shell's unset variable: a path would be the current folder."""
        for one in self.params:
            given = values.get(one.name)
            words = [word for word in (given if isinstance(given, list | tuple) else [given]) if isinstance(word, str)]
            if one.default != "" and not all(word.strip() for word in words):
                name = one.opts[0] if one.param_type_name == "option" else one.metavar
                raise ConfigError(f"{name} is empty", f"Give it a value{'' if one.required else ', or leave it out'}")

    def _require_local(self, values: Mapping[str, object], params: Mapping[str, object]) -> None:
        """Refuses an address where only a path is understood: a folder `s3:` would appear, and nothing in S3."""
        for one in self.params:
            if isinstance(params.get(one.name), Path) and "://" in (given := str(values.get(one.name))):
                name = one.opts[0] if one.param_type_name == "option" else one.metavar
                raise ConfigError(f"{name} can't be {given}", "Name a path on this machine")

    def _spread(self, ctx: Any, args: Sequence[str]) -> Iterator[tuple[bool, str]]:
        """The words with `--members` before each member, and whether each is neither option nor an option's value."""
        flags = {name for one in self.get_params(ctx) if getattr(one, "is_flag", False) for name in one.opts}
        option, values = "", 0
        for place, word in enumerate(args):
            if word == "--":
                yield from ((True, rest) for rest in args[place:])
                return
            if word.startswith("-") and len(word) > 1 and not (option and not values):
                option, values = ("", 0) if word in flags else (word.partition("=")[0], int("=" in word))
                yield False, word
            elif option == MEMBERS or (option and not values):
                if values:
                    yield False, MEMBERS
                values += 1
                yield False, word
            else:
                yield True, word


def command(app: typer.Typer, example: str, name: str | None = None) -> Callable[[Body], Body]:
    """Adds a command to a group.

    Args:
        app: the group.
        example: a call that works, shown at the end of the help; lines of at most 76 characters.
        name: the command's name, if it isn't the function's.
    """
    lines = ["\b", "Example:", *(f"  {line}" for line in example.splitlines())]
    return app.command(name, cls=Command, epilog="\n".join(lines))
