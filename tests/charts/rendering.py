"""Renders the chart with the real helm."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
CHART = ROOT / "charts" / "backdrop"
CASES = ["defaults", *sorted(path.name.removesuffix("-values.yaml") for path in (CHART / "ci").iterdir())]
KUBERNETES = "1.36"
LIVE = "apiregistration.k8s.io/v1"  # every cluster has it, and `helm template` alone doesn't know it
HELM = shutil.which("helm", path=f"{ROOT / '.tools'}{os.pathsep}{os.environ.get('PATH', '')}")
ABSENT = "helm isn't installed: run .ci/helm, or put it on the PATH"

Manifest = dict[str, Any]


def helm(*arguments: str) -> "subprocess.CompletedProcess[str]":
    if HELM is None:
        raise FileNotFoundError(ABSENT)
    return subprocess.run([HELM, *arguments], capture_output=True, text=True)


def values_of(case: str) -> list[str]:
    return [] if case == "defaults" else ["--values", str(CHART / "ci" / f"{case}-values.yaml")]


@cache
def rendered(
    case: str = "defaults",
    *options: str,
    release: str = "backdrop",
    namespace: str = "ml",
    chart: Path = CHART,
    live: bool = True,
) -> str:
    """What helm would install, tests and hooks included; if not `live`, what `helm template` gives."""
    cluster = ["--namespace", namespace, "--kube-version", KUBERNETES, *(("--api-versions", LIVE) if live else ())]
    done = helm("template", release, str(chart), *cluster, *values_of(case), *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def manifests(case: str = "defaults", *options: str, **about: Any) -> list[Manifest]:
    return [document for document in yaml.safe_load_all(rendered(case, *options, **about)) if document]


def named(kind: str, name: str, case: str = "defaults", *options: str, **about: Any) -> Manifest:
    (found,) = (m for m in manifests(case, *options, **about) if (m["kind"], m["metadata"]["name"]) == (kind, name))
    return found


def pods(case: str) -> Iterator[tuple[str, Manifest]]:
    """Name and pod (metadata and spec) of all that runs one."""
    for manifest in manifests(case):
        if manifest["kind"] in ("Deployment", "Job"):
            yield manifest["metadata"]["name"], manifest["spec"]["template"]
        elif manifest["kind"] == "CronJob":
            yield manifest["metadata"]["name"], manifest["spec"]["jobTemplate"]["spec"]["template"]
        elif manifest["kind"] == "Pod":
            yield manifest["metadata"]["name"], manifest


def environment(container: Manifest) -> dict[str, str]:
    """The variables that have a value of their own."""
    return {entry["name"]: entry["value"] for entry in container["env"] if "value" in entry}


def containers(pod: Manifest) -> list[Manifest]:
    return [*pod["spec"].get("initContainers", []), *pod["spec"]["containers"]]
