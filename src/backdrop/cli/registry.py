"""Commands on MLflow's registry and runs."""

import json
from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import Data, Json, Members, Name, Plans
from backdrop.cli.output import models_text
from backdrop.common.errors import ConfigError, TrackingError

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


Model = Annotated[str, typer.Argument(metavar="MODEL", help="Name of the registered model.")]
Reason = Annotated[str, typer.Option(metavar="TEXT", help="Why; it stands in the model's history.")]


@command(app, "backdrop promote photos --name cars")
def promote(
    data: Annotated[
        str, typer.Argument(metavar="DATA|MODEL", help="Dataset of the holdout; with --override, the model.")
    ],
    name: Name = "",
    override: Annotated[
        bool, typer.Option("--override", help="Promote --version of MODEL, whatever the gate says.")
    ] = False,
    version: Annotated[int, typer.Option(metavar="N", help="The version to promote with --override.")] = 0,
    reason: Reason = "",
) -> None:
    """Let the gate judge the challenger.

    It becomes the champion if it is better. With --override, a person decides instead.
    """
    from backdrop.steps.promote import override as promote_anyway
    from backdrop.steps.promote import promote as step

    if override:
        if not version:
            raise ConfigError("--override needs --version", "See the versions with `backdrop history`")
        chosen = promote_anyway(name or data, version, reason)
        print(f"{chosen.address} is the champion")
        return
    if not name or version:
        raise ConfigError("promote DATA needs --name, and --version needs --override", "See `backdrop promote --help`")
    verdict = step(data, name)
    print(f"{verdict.outcome}: {verdict.summary}")
    for line in verdict.reasons:
        print(f"  {line}")


@command(app, "backdrop rollback cars --reason 'halos around glass'")
def rollback(
    model: Model = "",
    name: Annotated[str, typer.Option(metavar="MODEL", help="The same as MODEL.")] = "",
    to: Annotated[
        str, typer.Option(metavar="VERSION|DATE", help="An earlier champion. By default, the last one.")
    ] = "",
    reason: Reason = "",
) -> None:
    """Make an earlier champion the champion again.

    It is held: no scheduled run replaces it until `backdrop release`.
    """
    from backdrop.steps.rollback import rollback as step

    chosen = model or name
    if not chosen:
        raise ConfigError("rollback needs the name of a registered model", "List them with `backdrop models`")
    version = step(chosen, to, reason).version
    print(f"models:/{chosen}@champion is version {version}, held until `backdrop release {chosen}`")


@command(app, "backdrop hold cars --reason 'campaign until Friday'")
def hold(model: Model, reason: Reason = "") -> None:
    """Keep the gate from replacing the champion."""
    from backdrop.steps.hold import hold as step

    entry = step(model, reason)
    print(f"models:/{model}@champion is version {entry.version}, held until `backdrop release {model}`")


@command(app, "backdrop release cars")
def release(model: Model, reason: Reason = "") -> None:
    """Let the gate replace a held champion again."""
    from backdrop.steps.release import release as step

    print(f"{model} was {'released' if step(model, reason) else 'not held'}")


@command(app, "backdrop history cars")
def history(
    model: Model,
    as_json: Json = False,
    verify: Annotated[bool, typer.Option("--verify", help="Check that no entry was changed or deleted.")] = False,
) -> None:
    """Show what happened to a model.

    Registered, judged, promoted, rolled back, held: when, by whom and why.
    """
    from backdrop.cli.output import history_text
    from backdrop.steps.history import history as step
    from backdrop.steps.history import outdated_student, verify_history

    if verify and (faults := verify_history(model)):
        raise TrackingError(f"The history of {model} isn't what was written: {'; '.join(faults)}", "Restore a backup")
    entries = step(model)
    if as_json:
        print(json.dumps([entry.model_dump(mode="json") for entry in entries], indent=2))
    else:
        print(history_text(entries) or f"{model} has no history")
        if note := outdated_student(model):
            print(note)


@command(app, "backdrop verify cars")
def verify(
    model: Annotated[
        str, typer.Argument(metavar="MODEL", help="NAME (its champion), NAME@ALIAS or NAME/VERSION of a model.")
    ],
) -> None:
    """Check that a version is what was registered.

    Every file, the model's history and, with BACKDROP_TRUSTED_KEY, the signature.
    """
    from backdrop.cli.output import verification_text
    from backdrop.steps.verify import verify as step

    print(verification_text(step(model)))


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
