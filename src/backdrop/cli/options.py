"""Options that several commands share."""

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from backdrop.common.errors import ConfigError

if TYPE_CHECKING:
    from backdrop.config.cluster import Pods
    from backdrop.pipelines.package import Package

Data = Annotated[
    str, typer.Argument(metavar="DATA", help="Dataset: a folder or s3:// prefix with train/ and train_masks/.")
]
Plan = Annotated[str, typer.Option(metavar="CSV", help="Fold plan that `backdrop split` wrote.")]
Plans = Annotated[
    list[str],
    typer.Option(
        metavar="CSV", help="Fold plan. Repeat it if recipes have plans of their own; give the ensemble's first."
    ),
]
RecipeName = Annotated[str, typer.Option("--recipe", metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")]
Recipe = Annotated[str, typer.Argument(metavar="RECIPE", help="A shipped recipe's name, or a YAML file.")]
NewYaml = Annotated[Path, typer.Argument(metavar="OUT", help="The YAML file to write.")]
Set = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of the recipe: epochs=2. Repeatable.")
]
SetFile = Annotated[
    str | None, typer.Option(metavar="YAML", help="Keys that replace the recipe's, such as a search's schedule.yaml.")
]
Objects = Annotated[int | None, typer.Option(min=1, metavar="N", help="Use only the first N objects by name.")]
Out = Annotated[str, typer.Argument(metavar="OUT", help="Folder of the new dataset.")]
Model = Annotated[str, typer.Option(metavar="MODEL", help="Registered model: models:/NAME@champion.")]
Student = Annotated[bool, typer.Option("--student", help="Use the small network that MODEL taught.")]
Name = Annotated[str, typer.Option(metavar="NAME", help="Name of the registered model.")]
Members = Annotated[
    list[str], typer.Option(metavar="MEMBER...", help="Members: one or more folders or runs:/ID/member addresses.")
]
Weights = Annotated[
    str | None, typer.Option(metavar="ENSEMBLE", help="Take the weights from this ensemble. Without it, all are equal.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON.")]
Seed = Annotated[int, typer.Option(metavar="N", help="Random seed.")]

EnsembleName = Annotated[str, typer.Argument(metavar="ENSEMBLE", help="A shipped ensemble's name, or a YAML file.")]
Hours = Annotated[
    float | None,
    typer.Option(
        "--hours", min=0.001, metavar="H", help="For auto: hours of one device that training may take. Default: 1."
    ),
]
FoldList = Annotated[str, typer.Option("--folds", metavar="0,1", help="Train only the members of these folds.")]
Tune = Annotated[
    str, typer.Option("--tune", metavar="BUDGET", help="Search each recipe's schedule first: off, fast or full.")
]
Ray = Annotated[bool, typer.Option("--ray", help="Search on a Ray cluster that KubeRay creates.")]
Assignments = Annotated[
    list[str], typer.Option("--set", metavar="KEY=VALUE", help="Override a key of every recipe: epochs=2. Repeatable.")
]
Labels = Annotated[
    list[str], typer.Option("--label", metavar="KEY=VALUE", help="Label of every task's pod. Repeatable.")
]
Retries = Annotated[
    int | None, typer.Option("--retries", min=0, metavar="N", help="How often to retry a lost GPU task. Default: 2.")
]
Shards = Annotated[
    int | None,
    typer.Option("--shards", min=1, max=100, metavar="N", help="For prediction: how many shares, each a task."),
]
Volume = Annotated[
    str, typer.Option("--volume", metavar="CLAIM", help="Mount this volume claim at /mnt/backdrop in every task's pod.")
]
# As Kubernetes takes it.
CLAIM = re.compile(r"(?=.{1,253}$)[a-z0-9]([-a-z0-9.]*[a-z0-9])?")


def package_of(
    ensemble: str,
    folds: str,
    assignments: list[str],
    tune: str,
    ray: bool,
    pods: "Pods | None" = None,
    shards: int | None = None,
) -> "Package":
    """Compiles the package that the options describe: an ensemble's training, or `prediction`.

    Raises:
        ConfigError: if there is no such ensemble, fold, key or budget, or an option can't be used with the others.
    """
    from backdrop.config import find_ensemble
    from backdrop.config.cluster import PODS
    from backdrop.config.explain import as_choice
    from backdrop.config.folds import as_folds
    from backdrop.pipelines.package import build, build_prediction
    from backdrop.pipelines.prediction import NAME
    from backdrop.pipelines.training import Tuned, with_overrides

    pods = pods or PODS
    if ensemble == NAME:
        if folds or assignments or ray or tune != "off":
            raise ConfigError("--folds, --set, --tune and --ray are of no use with prediction", "Leave them out")
        if shards is None:
            raise ConfigError("The number of shares is missing", "Give --shards, such as the number of your GPUs")
        return build_prediction(shards, pods)
    if shards is not None:
        raise ConfigError("--shards is of no use without prediction", "Leave it out")
    if pods.volume and ray:
        raise ConfigError("A Ray cluster's pods don't have --volume", "Leave --ray or --volume out")
    chosen = with_overrides(find_ensemble(ensemble), assignments)
    return build(chosen, as_folds(folds) or None, as_choice("--tune", tune, Tuned), ray, pods)


def pods_of(labels: Sequence[str], retries: int | None, volume: str) -> "Pods":
    """The pods that the options describe.

    Raises:
        ConfigError: if Kubernetes wouldn't take a label or the claim's name.
    """
    from backdrop.config.cluster import RETRIES, Pods

    if volume and not CLAIM.fullmatch(volume):
        raise ConfigError(f"--volume {volume} isn't a claim's name", "Take it from `kubectl get pvc`")
    return Pods(dict(map(_label, labels)), RETRIES if retries is None else retries, volume)


def _label(text: str) -> tuple[str, str]:
    from backdrop.config.cluster import label_fault

    key, separator, value = text.partition("=")
    if not separator:
        raise ConfigError(f"--label {text} isn't a label", "Write KEY=VALUE")
    if fault := label_fault({key: value}):
        raise ConfigError(f"--label {text}: {fault[0]}", fault[1])
    return key, value
