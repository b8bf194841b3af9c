"""Commands on MLflow's registry and runs."""

import json
from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Json, Members, Name, Plans
from backdrop.cli.output import models_text

app = typer.Typer()


@command(
    app,
    "backdrop register photos --plan plan.csv --members tiny-0 tiny-1 \\\n"
    "  --report report --ensemble tiny --name cars",
)
def register(
    data: Data,
    plan: Plans,
    members: Members,
    report: Annotated[str, typer.Option(metavar="FOLDER", help="Report that `backdrop evaluate` wrote.")],
    ensemble: Annotated[str, typer.Option(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file.")],
    name: Name,
) -> None:
    """Register an ensemble as a model's new version.

    The version becomes the challenger.
    """
    from backdrop.steps.register import register as step

    record = step(data, plan, members, report, ensemble, name)
    print(f"models:/{name}/{record.version} {'registered' if record.created else '(unchanged)'}")


@command(app, "backdrop promote photos --name cars")
def promote(data: Data, name: Name) -> None:
    """Let the gate judge the challenger.

    It becomes the champion if it is better.
    """
    from backdrop.steps.promote import promote as step

    verdict = step(data, name)
    print(f"{verdict.outcome}: {verdict.summary}")
    for reason in verdict.reasons:
        print(f"  {reason}")


@command(app, "backdrop rollback --name cars")
def rollback(name: Name) -> None:
    """Make the previous champion the champion again."""
    from backdrop.steps.rollback import rollback as step

    print(f"models:/{name}@champion is version {step(name).version}")


@command(app, "backdrop models")
def models(as_json: Json = False) -> None:
    """List the registered models and their champions.

    With the champion's Dice on the holdout and its date.
    """
    from backdrop.steps.models import models as step

    registered = step()
    if as_json:
        print(json.dumps([model.model_dump() for model in registered], indent=2))
    else:
        print(models_text(registered))


@command(app, "backdrop reap --idle-minutes 60")
def reap(
    idle_minutes: Annotated[
        float, typer.Option(metavar="MINUTES", help="A run is dead after this long without a sign of life.")
    ] = 15,
) -> None:
    """Close MLflow runs whose process has died."""
    from datetime import datetime

    from backdrop.steps.reap import reap as step

    for run in step(idle_minutes):
        last = datetime.fromtimestamp(run.last_ms / 1000).astimezone()
        print(f"{run.run_id} {run.name}: killed, last seen {last:%Y-%m-%d %H:%M:%S %z}")
