"""Commands that use a Kubeflow endpoint."""

from pathlib import Path
from typing import Annotated

import typer

from backdrop.cli.command import command
from backdrop.cli.options import (
    Assignments,
    EnsembleName,
    FoldList,
    Labels,
    Ray,
    Retries,
    Shards,
    Tune,
    Volume,
    package_of,
    pods_of,
)
from backdrop.common.errors import ConfigError

app = typer.Typer()

ANY = "tiny"  # every ensemble's pipeline has the same parameters

Host = Annotated[str, typer.Option(metavar="URL", help="Kubeflow's API. Default: KF_PIPELINES_ENDPOINT.")]
Namespace = Annotated[
    str, typer.Option(metavar="NAME", help="Your profile's namespace. Default: KFP_NAMESPACE, or the pod's.")
]
Params = Annotated[Path, typer.Option(metavar="YAML", help="The run's parameters: data, work, gpus and so on.")]
Experiment = Annotated[str, typer.Option(metavar="NAME", help="Kubeflow's experiment. Default: Kubeflow's own.")]
Account = Annotated[str, typer.Option(metavar="NAME", help="The pods' service account.")]


@command(app, "backdrop pipeline upload demo --host https://kubeflow.example.com")
def upload(
    ensemble: EnsembleName,
    host: Host = "",
    namespace: Namespace = "",
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
    labels: Labels = [],  # noqa: B006  # typer's way, and never changed
    retries: Retries = None,
    volume: Volume = "",
    shards: Shards = None,
) -> None:
    """Upload an ensemble's training pipeline to Kubeflow.

    An existing version isn't changed.
    """
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.publish import publish

    package = package_of(ensemble, folds, assignments, tune, ray, pods_of(labels, retries, volume), shards)
    published = publish(connect(host, namespace), package)
    print(f"pipeline {published.name} is {published.pipeline_id}")
    print(f"version {published.version} is {published.version_id} ({'new' if published.new else 'unchanged'})")


@command(app, "backdrop pipeline submit demo --params params.yaml")
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
    labels: Labels = [],  # noqa: B006  # typer's way, and never changed
    retries: Retries = None,
    volume: Volume = "",
    shards: Shards = None,
) -> None:
    """Start one run of the training pipeline on Kubeflow."""
    from backdrop.kubeflow import publish
    from backdrop.kubeflow.client import connect
    from backdrop.pipelines.parameters import read_parameters

    package = package_of(ensemble, folds, assignments, tune, ray, pods_of(labels, retries, volume), shards)
    values = read_parameters(params, package)
    endpoint = connect(host, namespace)
    experiment_id = publish.experiment_id(endpoint, experiment)
    published = publish.publish(endpoint, package)
    run = publish.submit(endpoint, published, experiment_id, values, service_account)
    print(f"run {run} of {published.name} {published.version} has started")
    print(f"See {endpoint.page(f'runs/details/{run}')}, or run: backdrop pipeline status")


@command(app, 'backdrop pipeline schedule demo --name weekly \\\n  --cron "0 0 3 * * 0" --params params.yaml')
def schedule(
    name: Annotated[str, typer.Option(metavar="NAME", help="The recurring run's name.")],
    ensemble: EnsembleName = "",
    cron: Annotated[str, typer.Option(metavar="CRON", help="When to start: six fields, seconds first.")] = "",
    params: Annotated[Path | None, typer.Option(metavar="YAML", help="The run's parameters, as for `submit`.")] = None,
    paused: Annotated[bool, typer.Option("--paused", help="Create it, but start no runs.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Delete it instead. Its runs continue.")] = False,
    experiment: Experiment = "",
    service_account: Account = "",
    host: Host = "",
    namespace: Namespace = "",
    folds: FoldList = "",
    assignments: Assignments = [],  # noqa: B006  # typer's way, and never changed
    tune: Tune = "off",
    ray: Ray = False,
    labels: Labels = [],  # noqa: B006  # typer's way, and never changed
    retries: Retries = None,
    volume: Volume = "",
    shards: Shards = None,
) -> None:
    """Create or update a recurring run on Kubeflow."""
    from backdrop.kubeflow import publish, recurring_runs
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.cron import check_cron
    from backdrop.pipelines.parameters import read_parameters

    if remove:
        count = recurring_runs.remove(connect(host, namespace), name)
        print(f"recurring run {name} is deleted" if count else f"there was no recurring run {name}")
        return
    if not (ensemble and cron and params):
        raise ConfigError("A recurring run needs ENSEMBLE, --cron and --params", "Give all three, or --remove")
    cron = check_cron(cron)
    package = package_of(ensemble, folds, assignments, tune, ray, pods_of(labels, retries, volume), shards)
    values = read_parameters(params, package)
    endpoint = connect(host, namespace)
    experiment_id = publish.experiment_id(endpoint, experiment)
    published = publish.publish(endpoint, package)
    desired = recurring_runs.RecurringRun(name, cron, published, experiment_id, values, service_account, paused)
    done = recurring_runs.reconcile(endpoint, desired)
    print(
        f"recurring run {name} is {done}: {published.name} {published.version} at {cron}{', paused' if paused else ''}"
    )


@command(app, "backdrop pipeline status --name weekly")
def status(
    name: Annotated[str, typer.Option(metavar="NAME", help="Show only this recurring run.")] = "",
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """List recurring runs and the last runs of every ensemble.

    Shows which task of a failed run failed, and why.
    """
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.status import overview

    for line in overview(connect(host, namespace), name):
        print(line)


@command(app, "backdrop pipeline heal 4cc9b90d-0a3b-4d3c-9f46-6d2f0c5c1a11")
def heal(
    run: Annotated[str, typer.Argument(metavar="RUN", help="The run's id, as `status` shows it.")] = "",
    name: Annotated[
        str, typer.Option(metavar="NAME", help="Instead, a recurring run's last run, if it lost pods.")
    ] = "",
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Start a failed run again.

    It has the same version and parameters. Finished members are reused.
    """
    from backdrop.kubeflow.client import connect
    from backdrop.kubeflow.heal import heal, heal_last

    if bool(run) == bool(name):
        raise ConfigError("Either a run or a recurring run must be named", "Give one of RUN and --name")
    endpoint = connect(host, namespace)
    if name:
        print(f"{name}: {heal_last(endpoint, name)}")
        return
    again = heal(endpoint, run)
    print(f"run {run} has started again as {again}")
    print(f"See {endpoint.page(f'runs/details/{again}')}, or run: backdrop pipeline status")


@command(app, "backdrop pipeline preflight --params params.yaml")
def preflight(
    params: Params,
    ray: Annotated[bool, typer.Option("--ray", help="Check for KubeRay too.")] = False,
    ensemble: Annotated[
        str, typer.Option("--ensemble", metavar="ENSEMBLE", help="Check its weights and fold schemes too.")
    ] = "",
    host: Host = "",
    namespace: Namespace = "",
) -> None:
    """Check that a cluster has everything a run needs.

    Exit code 1 if something is missing.
    """
    from backdrop.config import find_ensemble
    from backdrop.kubeflow.preflight import preflight as look
    from backdrop.pipelines.parameters import read_parameters, with_defaults

    package = package_of(ANY, "", [], "off", False)
    values = with_defaults(read_parameters(params, package), package)
    failed = False
    for what, passed, message in look(values, host, namespace, ray, find_ensemble(ensemble) if ensemble else None):
        print(f"{'ok' if passed else 'FAILED':6} {what:8} {message}", flush=True)
        failed |= not passed
    raise typer.Exit(1 if failed else 0)
