"""Commands on MLflow's registry and runs."""

from typing import Annotated

import typer

from backdrop.cli.options import MORE_MEMBERS, Data, Members, Name, Plans

app = typer.Typer()


@app.command(context_settings=MORE_MEMBERS)
def register(
    context: typer.Context,
    data: Data,
    plan: Plans,
    members: Members,
    report: Annotated[str, typer.Option(help="Report folder that `backdrop evaluate` wrote.")],
    ensemble: Annotated[str, typer.Option(help="A shipped ensemble's name, or a YAML file.")],
    name: Name,
) -> None:
    """Make the ensemble a version of a registered model, and the challenger."""
    from backdrop.steps.register import register as step

    record = step(data, plan, [*members, *context.args], report, ensemble, name)
    print(f"models:/{name}/{record.version} {'registered' if record.created else 'was there already'}")


@app.command()
def promote(data: Data, name: Name) -> None:
    """Let the gate judge the challenger: the new champion, or the old one with reasons."""
    from backdrop.steps.promote import promote as step

    verdict = step(data, name)
    print(f"{verdict.outcome}: {verdict.summary}")
    for reason in verdict.reasons:
        print(f"  {reason}")


@app.command()
def rollback(name: Name) -> None:
    """Make the previous champion the champion again."""
    from backdrop.steps.rollback import rollback as step

    print(f"models:/{name}@champion is version {step(name).version}")


@app.command()
def reap(
    idle_minutes: Annotated[float, typer.Option(help="Silent for so long, a run counts as gone.")] = 15,
) -> None:
    """Close MLflow's runs whose process is gone."""
    from datetime import datetime

    from backdrop.steps.reap import reap as step

    for run in step(idle_minutes):
        last = datetime.fromtimestamp(run.last_ms / 1000).astimezone()
        print(f"{run.run_id} {run.name}: killed, last seen {last:%Y-%m-%d %H:%M:%S %z}")
