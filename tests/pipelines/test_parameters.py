"""params.yaml and --cron: what is wrong is said before anything is asked of Kubeflow."""

from pathlib import Path

import pytest

from backdrop.common.errors import ConfigError
from backdrop.config import find_ensemble
from backdrop.kubeflow.cron import check_cron
from backdrop.pipelines.package import Package, build
from backdrop.pipelines.parameters import read_parameters, with_defaults

WHOLE = """
data: s3://photos/cars
name: cars
objects: 12
promotion: false
gpus: "2"
cpu: 500m
memory: 1.5Gi
node_selector: {pool: gpu, nvidia.com/gpu.present: "true"}
tolerations:
  - {key: nvidia.com/gpu, operator: Exists}
  - {key: team, value: vision, effect: NoExecute, tolerationSeconds: 60}
ray_cluster: {head_memory: 4Gi, labels: {kueue.x-k8s.io/queue-name: vision}, retries: 1}
"""


@pytest.fixture(scope="module")
def package() -> Package:
    return build(find_ensemble("tiny"), [0])


def test_what_is_given_is_taken_and_the_rest_is_the_packages(package: Package, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(WHOLE)
    given = read_parameters(path, package)
    assert set(given) == {
        *("data", "name", "objects", "promotion", "gpus", "cpu", "memory", "node_selector", "tolerations"),
        "ray_cluster",
    }
    path.write_text(f"{WHOLE}work: s3://photos/runs/\n")
    assert read_parameters(path, package)["work"] == "s3://photos/runs"  # below which tasks name their outputs
    full = with_defaults(given, package)
    assert full["accelerator"] == "nvidia.com/gpu"
    assert full["name"] == "cars"
    assert set(full) == set(package.documents[0]["root"]["inputDefinitions"]["parameters"])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("name: cars", "key data is missing. Add data."),
        ("data: d\nray_cluster: {labels: {a: 1}}", "ray_cluster: labels: a is 1, not text"),
        ("data: d\nray_cluster: {head_memroy: 4Gi}", "Did you mean head_memory?"),
        ("data: d\nray_cluster: {head_cpu: four}", "ray_cluster: head_cpu"),
        (
            "data: d\nray_cluster: {memory: 4Gi}",
            "ray_cluster has memory. Take it out: it is the parameter memory, of GPU",
        ),
        ("data: [", "is not valid YAML"),
        ("- data", "is not a mapping"),
        ("data: x\nnode_selektor: {}", "unknown key node_selektor. Did you mean node_selector?"),
        ("data: x\ngpus: 1", 'gpus is 1, not text. Write gpus: "1".'),
        ("data: x\ngpus: half", "gpus is 'half'. Give a whole number."),
        ("data: x\ngpus: '-1'", "gpus is '-1'. Give a whole number."),
        ("data: x\nobjects: -1", "objects is -1. Give at least 0."),
        ("data: x\nray_workers: 0", "ray_workers is 0. Give at least 1."),
        ("data: x\naccelerator: gpu", "accelerator is 'gpu'. Give a resource's whole name, such as nvidia.com/gpu."),
        ("data: x\nnode_selector: {pool: '-'}", "node_selector: pool is '-'. A label's value has letters, digits and"),
        ("data: x\ncpu: four", "cpu is 'four'. Give a number of cores such as 4 or 500m."),
        ("data: x\nmemory: 16 GB", "memory is '16 GB'. Give a size such as 16Gi."),
        ("data: x\nmemory: '16'", "memory is '16'. Give a size such as 16Gi."),
        ("data: x\nmemory: 512m", "memory is '512m'. Give a size such as 16Gi."),
        (
            "data: d\nray_cluster: {head_memory: 8}",
            "ray_cluster: head_memory: 8 is less than 1Mi. Write a size such as",
        ),
        ("data: x\nobjects: '3'", "objects is '3', not a whole number. Give a whole number."),
        ("data: x\nobjects: true", "objects is True, not a whole number."),
        ("data: x\npromotion: 1", "promotion is 1, not true or false."),
        ("data:", "data is None, not text. Give text."),
        ("data: x\nnode_selector: [a]", "node_selector is ['a'], not a mapping."),
        ("data: x\nnode_selector: {gpu: true}", 'node_selector: gpu is True, not text. Put it in quotes: "true".'),
        ("data: x\ntolerations: {key: gpu}", "tolerations is {'key': 'gpu'}, not a list."),
        ("data: x\ncpu_node_selector: {cpu: true}", "cpu_node_selector: cpu is True, not text. Put it in quotes"),
        ("data: x\ncpu_tolerations: [{kye: cpu}]", "cpu_tolerations: unknown key kye. Did you mean key?"),
        (
            "data: d\nray_cluster: {head_tolerations: []}",
            "ray_cluster has head_tolerations. Take it out: it is the parameter cpu_tolerations, of tasks without",
        ),
        ("data: x\ntolerations: [gpu]", "tolerations must be a list of mappings. Write each as"),
        ("data: x\ntolerations: [{kye: gpu}]", "tolerations: unknown key kye. Did you mean key?"),
        (
            "data: x\ntolerations: [{key: gpu, operator: Is}]",
            "tolerations: operator can't be Is. Use one of Equal",
        ),
        # Kubernetes refuses a pod with these, hours into a run.
        ("data: x\nnode_selector: {GPU pool: a}", "node_selector: 'GPU pool' isn't a label's key. Write it as"),
        ("data: x\nray_cluster: {labels: {a/b/c: x}}", "ray_cluster: labels: 'a/b/c' isn't a label's key. Write it as"),
        ("data: x\ntolerations: [{key: gpu pool, operator: Exists}]", "tolerations: 'gpu pool' isn't a taint's key."),
        (
            "data: x\ntolerations: [{key: gpu, value: 'yes, please'}]",
            "'yes, please' isn't a taint's value.",
        ),
        (
            "data: x\ntolerations: [{key: gpu, operator: Exists, value: a}]",
            "operator Exists takes no value, but it is a.",
        ),
        ("data: x\ncpu_tolerations: [{effect: NoSchedule}]", "operator Equal, the default, needs a key. Add it, or"),
        (
            "data: x\ntolerations: [{key: spot, operator: Exists, tolerationSeconds: 60}]",
            "tolerationSeconds is of the effect NoExecute only. Leave it out, or write that effect.",
        ),
    ],
)
def test_what_is_refused(text: str, message: str, package: Package, tmp_path: Path) -> None:
    path = tmp_path / "params.yaml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        read_parameters(path, package)
    assert str(caught.value).startswith(str(path))
    assert message in str(caught.value)


def test_no_such_file(package: Package) -> None:
    with pytest.raises(ConfigError, match=r"^Parameters /no/such can't be read"):
        read_parameters(Path("/no/such"), package)


@pytest.mark.parametrize(
    "text",
    ["0 0 3 * * 0", " 0  30 2,14 1-7 JAN-mar ? ", "*/10 0-59/5 5/2 * * Mon", "0 0 0 31 12 6"],
)
def test_good_crons(text: str) -> None:
    assert check_cron(text) == " ".join(text.split())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("0 3 * * 0", "has 5 fields, not 6. Start with the seconds"),
        ("@weekly", "has 1 field, not 6"),
        ("0 0 24 * * *", "24 isn't a valid hour. Use 0 to 23, *, or ranges and steps such as 0-23/2."),
        ("0 0 3 0 * *", "0 isn't a valid day of the month"),
        ("0 0 3 * 13 *", "13 isn't a valid month. Use 1 to 12, JAN to DEC, *"),
        ("0 0 3 * * 7", "7 isn't a valid day of the week. Use 0 to 6, SUN to SAT"),
        ("0 0 3 * * MONDAY", "MONDAY isn't a valid day of the week"),
        ("60 0 3 * * *", "60 isn't a valid second"),
        ("0 -1 3 * * *", "-1 isn't a valid minute"),
        ("0 5-2 3 * * *", "5-2 isn't a valid minute"),
        ("0 */0 3 * * *", "*/0 isn't a valid minute"),
        ("0 1, 3 * * *", "an empty field isn't a valid minute"),
    ],
)
def test_bad_crons(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        check_cron(text)
    assert message in str(caught.value)
