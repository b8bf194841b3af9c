"""The commands that talk to a Kubeflow endpoint."""

from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli.options import Assignments, EnsembleName, FoldList, Ray, Tune, package_of
from backdrop.common.errors import ConfigError

app = typer.Typer()

ANY = "tiny"  # every ensemble's pipeline has the same parameters

Host = Annotated[str, typer.Option(metavar="URL", help="Kubeflow's API; KF_PIPELINES_ENDPOINT if not given.")]
Namespace = Annotated[str, typer.Option(help="Of your profile; KFP_NAMESPACE or the pod's own if not given.")]
Params = Annotated[Path, typer.Option(metavar="YAML", help="The run's parameters: data, work, gpus and so on.")]
Experiment = Annotated[str, typer.Option(help="Kubeflow's experiment; its default one if not given.")]
Account = Annotated[str, typer.Option(help="The Kubernetes service account of the pods.")]


@app.command()
def upload(
    ensemble: EnsembleName,
    host: Host = "",
    namespace: Namespace = "",
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
) -> None:
    """Bring an ensemble's training pipeline to Kubeflow, as a version that is there once."""
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.publish import publish

    package = package_of(ensemble, folds, assignments, tune, ray)
    published = publish(connect(host, namespace), package)
    print(f"pipeline {published.name} is {published.pipeline_id}")
    print(f"version {published.version} is {published.version_id} ({'new' if published.new else 'there already'})")


@app.command()
def submit(
    ensemble: EnsembleName,
    params: Params,
    experiment: Experiment = "",
    service_account: Account = "",
    host: Host = "",
    namespace: Namespace = "",
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
) -> None:
    """Start one run of an ensemble's training pipeline on Kubeflow."""
    from backdrop.kubeflow import publish
    from backdrop.kubeflow.client import connect
    from backdrop.pipelines.parameters import read_parameters

    package = package_of(ensemble, folds, assignments, tune, ray)
    values = read_parameters(params, package)
    endpoint = connect(host, namespace)
    where = publish.experiment_id(endpoint, experiment)
    published = publish.publish(endpoint, package)
    run = publish.submit(endpoint, published, where, values, service_account)
    print(f"run {run} of {published.name} {published.version} has begun")
    print(f"look at {endpoint.page(f'runs/details/{run}')}, or: backdrop pipeline status")


@app.command()
def schedule(
    name: Annotated[str, typer.Option(help="The schedule's name; there will be exactly one of it.")],
    ensemble: Annotated[str, typer.Argument(metavar="ENSEMBLE", help="As for `submit`.")] = "",
    cron: Annotated[str, typer.Option(metavar="CRON", help='Six fields, seconds first: "0 0 3 * * 0".')] = "",
    params: Annotated[Path | None, typer.Option(metavar="YAML", help="As for `submit`.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="It is there, but starts nothing.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete it instead; its runs go on.")] = False,
    experiment: Experiment = "",
    service_account: Account = "",
    host: Host = "",
    namespace: Namespace = "",
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
) -> None:
    """See to it that Kubeflow has one schedule of this name, and that it is as given."""
    from backdrop.kubeflow import publish, recurring_runs
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.cron import check_cron
    from backdrop.pipelines.parameters import read_parameters

    if remove:
        count = recurring_runs.remove(connect(host, namespace), name)
        print(f"schedule {name} is deleted" if count else f"there was no schedule {name}")
        return
    if not (ensemble and cron and params):
        raise ConfigError("A schedule needs ENSEMBLE, --cron and --params", "Give all three, or --remove")
    cron = check_cron(cron)
    package = package_of(ensemble, folds, assignments, tune, ray)
    values = read_parameters(params, package)
    endpoint = connect(host, namespace)
    where = publish.experiment_id(endpoint, experiment)
    published = publish.publish(endpoint, package)
    wanted = recurring_runs.Schedule(name, cron, published, where, values, service_account, paused)
    done = recurring_runs.reconcile(endpoint, wanted)
    print(f"schedule {name} is {done}: {published.name} {published.version} at {cron}{', paused' if paused else ''}")


@app.command()
def status(
    name: Annotated[str, typer.Option(help="Only the schedule of this name.")] = "",
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Show Backdrop's schedules on Kubeflow, the version that each has, and their last runs."""
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.status import overview

    for line in overview(connect(host, namespace), name):
        print(line)


@app.command()
def preflight(
    params: Params,
    ray: Annotated[bool, typer.Option("--ray", help="The run needs KubeRay.")] = False,
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Look whether all is there that a run needs; exit code 1 if something isn't."""
    from backdrop.kubeflow.preflight import preflight as look
    from backdrop.pipelines.parameters import read_parameters, with_defaults

    package = package_of(ANY, "", [], "off", False)
    values = with_defaults(read_parameters(params, package), package)
    failed = False
    for what, well, said in look(values, host, namespace, ray):
        print(f"{'ok' if well else 'FAILED':6} {what:8} {said}", flush=True)
        failed |= not well
    raise typer.Exit(1 if failed else 0)
