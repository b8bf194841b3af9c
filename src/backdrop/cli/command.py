"""How a command is declared: its help names arguments as the docs do, and ends in an example."""

from collections.abc import Callable
from typing import Any, TypeVar

import typer
from typer.core import TyperCommand

Body = TypeVar("Body", bound=Callable[..., None])


class Command(TyperCommand):
    """Shows an argument as `DATA`, where typer has `{DATA}` and `DATA <str>`."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """The words of the usage line after the command's name."""
        return [piece.strip("{}") for piece in super().collect_usage_pieces(ctx)]

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


def command(
    app: typer.Typer, example: str, name: str | None = None, more_members: bool = False
) -> Callable[[Body], Body]:
    """Adds a command to a group.

    Args:
        app: the group.
        example: one that works, shown as it is at the end of the help; lines of at most 76 characters.
        name: the command's, if it isn't the function's.
        more_members: what stands behind `--members A` belongs to it too: `--members A B C`.
    """
    lines = ["\b", "Example:", *(f"  {line}" for line in example.splitlines())]
    settings = {"allow_extra_args": True} if more_members else None
    return app.command(name, cls=Command, epilog="\n".join(lines), context_settings=settings)
