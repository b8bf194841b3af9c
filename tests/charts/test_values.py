"""Values: each is documented and has its type; a wrong one is refused with a word on what to do."""

import copy
import functools
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from backdrop.kubeflow.cron import check_cron
from charts import readme
from tests.charts.rendering import CHART, LIVE, Manifest, helm, manifests, rendered, values_of

SCHEMA = json.loads((CHART / "values.schema.json").read_text())
VALUES = yaml.safe_load((CHART / "values.yaml").read_text())
# One or more of these fit each value.
SAMPLES: list[Any] = [
    *(True, False, 1, 2, 1100, 1101, 0.25, 0.5, "1", "2", "", "a", "b", "a.b/c", "a.b/d", "s3://a/b", "s3://a/c"),
    *("http://a:1", "http://a:2", "models:/a@b", "models:/a/1", "0 0 0 0 0 0", "1 0 0 0 0 0", "0 0 0 0 0", "1 0 0 0 0"),
    *(
        "sha256:" + "a" * 64,
        "sha256:" + "b" * 64,
        "IfNotPresent",
        "Always",
        "fast",
        "full",
        "mask",
        "alpha",
        "png",
        "webp",
    ),
    *("sqlite", "external", "::", "::1", "1Gi", [], {}, [{"name": "a"}], ["a"], {"a": "b"}, [{"key": "a"}]),
    *([{"maxSkew": 1}], {"nodeAffinity": {}}, {"runAsUser": 1}, {"requests": {"cpu": "1"}}, {"periodSeconds": 1}),
    *({"storage": "1Gi"}, [{"ports": [{"port": 1}]}], [{"podSelector": {"a": "b"}}], [{"a": "b"}]),
]
PLAIN = ("--set-json", 'image.digest=""', "--set-json", 'image.cpu.digest=""', "--set-json", "tuning.ray=false")
OTHERS = (*values_of("full"), "--api-versions", LIVE, *PLAIN)
NAME = {"$ref": "#/definitions/objectName"}
KFP = "kfp.endpoint=http://kfp:8888"
DATA = "pipeline.data=s3://photos/cars"


def resolved(node: dict[str, Any]) -> dict[str, Any]:
    return resolved(SCHEMA["definitions"][node["$ref"].rpartition("/")[2]]) if "$ref" in node else node


def differences(node: dict[str, Any], values: Any, path: str = "") -> list[str]:
    """Keys that only one of schema and values has; a schema without properties takes any."""
    node = resolved(node)
    if "properties" not in node or not isinstance(values, dict) or not values:
        return []
    differing = [f"{path}.{key}" for key in node["properties"].keys() ^ values.keys()]
    for key in node["properties"].keys() & values.keys():
        differing += differences(node["properties"][key], values[key], f"{path}.{key}")
    return differing


def changed(path: str, value: Any) -> dict[str, Any]:
    """The chart's values with another one; None takes it out, as Helm does."""
    values = copy.deepcopy(VALUES)
    *groups, key = path.split(".")
    at = functools.reduce(dict.__getitem__, groups, values)
    at[key] = value
    if value is None:
        del at[key]
    return values


@functools.cache
def outcome(*options: str) -> tuple[str, str]:
    """What the chart renders with everything on, and what it says."""
    done = helm("template", "x", str(CHART), *OTHERS, *options)
    return done.stdout, done.stderr


def documented() -> dict[str, Any]:
    """Every value with its default, without those that this chart doesn't use itself."""
    rows = readme.rows((CHART / "values.yaml").read_text())
    return {key: default for key, default, _ in rows if default is not None and key not in ("enabled", "global")}


def objects(node: Any) -> list[dict[str, Any]]:
    """Every object schema that names its properties; those of an `anyOf` are conditions on the object that has it."""
    children = (
        [node[key] for key in node if key != "anyOf"]
        if isinstance(node, dict)
        else node
        if isinstance(node, list)
        else []
    )
    own = [node] if isinstance(node, dict) and isinstance(node.get("properties"), dict) else []
    return own + [inner for child in children for inner in objects(child)]


def test_schema_is_a_schema() -> None:
    jsonschema.Draft7Validator.check_schema(SCHEMA)
    jsonschema.Draft7Validator(SCHEMA).validate(VALUES)


def test_schema_and_values_have_the_same_keys() -> None:
    kubernetes = re.compile(r"\.(jobs\.resources|affinity|podSecurityContext|securityContext|tuning\.cluster)\b")
    assert [path for path in differences(SCHEMA, VALUES) if not kubernetes.match(path)] == []


def test_no_object_takes_a_key_that_it_does_not_name() -> None:
    named = objects(SCHEMA)
    assert len(named) > 15
    assert all(node["additionalProperties"] is False for node in named)
    assert SCHEMA["properties"]["global"] == {"type": "object"}


@pytest.mark.parametrize(
    ("path", "address"),
    [
        ("kfp.endpoint", "https://{}kubeflow.example:8888/pipeline"),
        ("tracking.uri", "https://{}mlflow.example"),
        ("s3.endpoint", "http://{}minio:9000"),
        ("pipeline.data", "s3://{}photos/cars"),
        ("pipeline.work", "s3://{}photos/work"),
        ("mlflow.artifacts", "s3://{}models"),
    ],
)
def test_an_address_with_credentials_is_refused(path: str, address: str) -> None:
    """They would be in the release, in a ConfigMap and in the pipeline's parameters."""
    schema = jsonschema.Draft7Validator(SCHEMA)
    assert schema.is_valid(changed(path, address.format("")))
    for credentials in ("me:secret@", "token@", "me:se/cr@et@", "me@"):
        assert not schema.is_valid(changed(path, address.format(credentials)))


def test_readme_is_up_to_date() -> None:
    assert readme.readme() == (CHART / "README.md").read_text()


def test_every_value_is_documented() -> None:
    rows = {key: default for key, default, _ in readme.rows((CHART / "values.yaml").read_text())}
    assert set(VALUES) == {key for key in rows if "." not in key}
    assert rows["gpu.nodePool.gpus"] == "1"
    assert rows["mlflow"] is None
    with pytest.raises(ValueError, match=r"mlflow\.port has no comment"):
        list(readme.rows("# A server.\nmlflow:\n  port: 5000\n"))


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("values", "message"),
    [
        ("schedul.enabled=true", "additional properties 'schedul' not allowed"),
        ("schedule.enable=true", "at '/schedule': additional properties 'enable' not allowed"),
        ("gpu.nodepool.gpus=1", "at '/gpu': additional properties 'nodepool' not allowed"),
        ("gpu.nodePool.count=1", "at '/gpu/nodePool': additional properties 'count' not allowed"),
        ("mlflow.image.tags=1", "at '/mlflow/image': additional properties 'tags' not allowed"),
        ("jobs.resources.limit.cpu=1", "at '/jobs/resources': additional properties 'limit' not allowed"),
        ("tolerations[0].efect=NoSchedule", "at '/tolerations/0': additional properties 'efect' not allowed"),
        ("tolerations[0].value=gpu", "at '/tolerations/0': missing property 'key'"),
        ("tolerations[0].key=a,tolerations[0].value=b c", "at '/tolerations/0/value': 'b c' does not match pattern"),
        ("tolerations[0].operator=Exists,tolerations[0].value=b", "at '/tolerations/0/value': value must be ''"),
        (
            "tolerations[0].key=a,tolerations[0].effect=NoSchedule,tolerations[0].tolerationSeconds=60",
            "at '/tolerations/0/effect': value must be 'NoExecute'",
        ),
        ("gpu.nodePool.tolerations[0].key=a b", "at '/gpu/nodePool/tolerations/0/key': 'a b' does not match pattern"),
        ("podSecurityContext.runAsUser=1000770000000", "at '/podSecurityContext/runAsUser': maximum: got"),
        ("networkPolicy.outside[0].too=1", "at '/networkPolicy/outside/0': additional properties 'too' not allowed"),
        ("schedule.paused=1", "at '/schedule/paused': got number, want boolean"),
        ("image.repository=backdrop", "at '/image/repository': 'backdrop' does not match pattern"),
        ("image.digest=abc", "at '/image/digest': 'abc' does not match pattern"),
        ("mlflow.allowedHosts[0]=mlflow.*", "at '/mlflow/allowedHosts/0': 'mlflow.*' does not match pattern"),
        ("tuning.budget=slow", "at '/tuning/budget': value must be one of 'off', 'fast', 'full'"),
        ("gpu.nodePool.gpus=-1", "at '/gpu/nodePool/gpus': minimum: got -1, want 0"),
        ("gpu.nodePool.cpu=-1", "at '/gpu/nodePool/cpu': minimum: got -1, want 0"),
        ("gpu.nodePool.accelerator=gpu", "at '/gpu/nodePool/accelerator': 'gpu' does not match pattern"),
        ("mlflow.volume.size=50", "at '/mlflow/volume/size': minimum: got 50, want"),
        ("gpu.nodePool.memory=512m", "at '/gpu/nodePool/memory': '512m' does not match pattern"),
        ("drift.storage=512m", "at '/drift/storage': '512m' does not match pattern"),
        ("mlflow.volume.storageClass=--", "at '/mlflow/volume/storageClass': '--' does not match pattern"),
        ("mlflow.existingSecret=a..b", "at '/mlflow/existingSecret': 'a..b' does not match pattern"),
        ("schedule.serviceAccount=me@x", "at '/schedule/serviceAccount': 'me@x' does not match pattern"),
        ("podLabels.team=a b", "at '/podLabels/team': 'a b' does not match pattern"),
        ("nodeSelector.pool=-", "at '/nodeSelector/pool': '-' does not match pattern"),
        ("clusterDomain=cluster..", "at '/clusterDomain': 'cluster..' does not match pattern"),
        ("kfp.endpoint=http://", "at '/kfp/endpoint': 'http://' does not match pattern"),
        ("kfp.endpoint=http://kfp:8888/#/runs", "at '/kfp/endpoint': 'http://kfp:8888/#/runs' does not match pattern"),
        ("s3.endpoint=http://minio:abc", "at '/s3/endpoint': 'http://minio:abc' does not match pattern"),
        ("pipeline.data=photos", "at '/pipeline/data': 'photos' does not match pattern"),
        ("mlflow.artifacts=s3://a b/c", "at '/mlflow/artifacts': 's3://a b/c' does not match pattern"),
        ("pipeline.files.network=x", "invalid propertyName 'network'"),
        (r"pipeline.files.prediction\.yaml=x", "invalid propertyName 'prediction.yaml'"),
        ("pipeline.labels.cost center=x", "invalid propertyName 'cost center'"),
        ("commonLabels.a/b/c=x", "invalid propertyName 'a/b/c'"),
        ("podSecurityContext.runAsUser=me", "at '/podSecurityContext/runAsUser': got string, want integer"),
        ("podSecurityContext.runAsUsers=1", "additional properties 'runAsUsers' not allowed"),
        ("securityContext.capabilities.drops[0]=ALL", "additional properties 'drops' not allowed"),
        ("affinity.nodeAfinity.x=1", "at '/affinity': additional properties 'nodeAfinity' not allowed"),
        ("tuning.cluster.head_cpus=2", "at '/tuning/cluster': additional properties 'head_cpus' not allowed"),
        ("mlflow.readinessProbe.timeout=5", "invalid propertyName 'timeout'"),
        (
            "serving.readinessProbe.timeoutSeconds=0",
            "at '/serving/readinessProbe/timeoutSeconds': minimum: got 0, want 1",
        ),
        ("kfp.endpoint=http://kfp:65536", "at '/kfp/endpoint': 'http://kfp:65536' does not match pattern"),
        ("image.repository=registry.example/b:1", "at '/image/repository': 'registry.example/b:1' does not match"),
        ("image.repository=registry.example/b@sha256:1", "at '/image/repository': 'registry.example/b@sha256:1'"),
        ("s3.region=eu central", "at '/s3/region': 'eu central' does not match pattern"),
        ("mlflow.port=null", "at '/mlflow': missing property 'port'"),
        ("mlflow=null", "missing property 'mlflow'"),
        ("mlflow.database=postgres", "at '/mlflow/database': value must be one of 'sqlite', 'external'"),
    ],
)
def test_a_typo_is_refused(values: str, message: str) -> None:
    done = helm("template", "backdrop", str(CHART), "--set", values)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("values", "message"),
    [
        (f"schedule.enabled=true,{KFP}", "pipeline.data is empty, so there is nothing to train on. Set it to"),
        (f"preflight.enabled=true,{KFP}", "pipeline.data is empty, so there is nothing to train on. Set it to"),
        (
            f"schedule.enabled=true,{DATA}",
            "kfp.endpoint is empty, but schedule, prediction and preflight call Kubeflow",
        ),
        (f"prediction.schedule=0 0 * * * *,{KFP}", "prediction.images is empty. Set it to an S3 address, or to"),
        (
            f"prediction.schedule=0 * * * *,prediction.images=/a,prediction.out=/b,prediction.work=/c,{KFP}",
            'prediction.schedule is "0 * * * *", but it needs six fields. Start with',
        ),
        ("drift.schedule=0 6 * * 1,drift.images=s3://a/b", "drift.out is empty. Set it to an S3 address, or to"),
        (
            "drift.schedule=0 6 * * 1,drift.images=/a,drift.out=/b,pipeline.ensemble=/etc/backdrop/ours.yaml",
            "drift is on, but nothing names the model. Set pipeline.model, or drift.model: --set drift.model=",
        ),
        ("schedule.cron=0 2 * * 0", 'schedule.cron is "0 2 * * 0", but it needs six fields. Start with'),
        ("mlflow.enabled=false", "There is no tracking server. Set mlflow.enabled=true, or set tracking.uri"),
        ("tracking.uri=https://mlflow.example", "Set mlflow.enabled=false, or leave tracking.uri empty"),
        ("tuning.ray=true", "not all pods of a Ray cluster can reach pipeline.work. Set it to an S3 address"),
        (
            "tuning.ray=true,pipeline.work=s3://a/b",
            "schedule.serviceAccount is empty. Set it to the account of the",
        ),
        (
            "tuning.ray=true,pipeline.work=s3://a/b,schedule.serviceAccount=a,pipeline.volume=studio",
            "a Ray cluster's pods don't have the volume. Leave one of them out",
        ),
        (
            "serviceAccount.name=a,mlflow.serviceAccount.name=b,serving.enabled=true,serving.serviceAccount.name=a",
            "serviceAccount and serving.serviceAccount would both create the account a. Let one create it: --set",
        ),
        ("serviceAccount.name=default", "Kubernetes and serviceAccount would both create the account default. Let one"),
        ("mlflow.serviceAccount.name=backdrop", "serviceAccount and mlflow.serviceAccount would both create the"),
        (
            f"mlflow.serviceAccount.name=backdrop-preflight,preflight.enabled=true,{DATA},{KFP}",
            "serviceAccount and mlflow.serviceAccount would both create the account backdrop-preflight. Let one create",
        ),
        (
            "serving.enabled=true,serving.serviceAccount.name=backdrop-mlflow",
            "mlflow.serviceAccount and serving.serviceAccount would both create the account backdrop-mlflow. Let one",
        ),
        (
            "mlflow.database=external",
            "mlflow.existingSecret is empty. Create a Secret with the key MLFLOW",
        ),
    ],
)
def test_what_is_missing_is_reported(values: str, message: str) -> None:
    done = helm("template", "backdrop", str(CHART), "--set", values)
    assert done.returncode != 0
    assert message in done.stderr


@pytest.mark.e2e
@pytest.mark.parametrize("cron", ["0  0 2 * * 0", " 0 30 2 1-7 JAN ? "])
def test_a_cron_has_as_many_blanks_as_the_command_takes(cron: str) -> None:
    given = ("--set-string", f"schedule.cron={cron}", "--set-string", f"prediction.schedule={cron}")
    command = [part for one in manifests("full", *given) if one["kind"] == "Job" for part in commands(one)]
    assert command.count(cron) == 2
    assert len(check_cron(cron).split()) == 6


def commands(job: Manifest) -> list[str]:
    found: list[str] = job["spec"]["template"]["spec"]["containers"][0]["command"]
    return found


def numbers(node: dict[str, Any], path: str = "") -> Iterator[tuple[str, int]]:
    """The values that are whole numbers, and a large one for each."""
    if resolved(node).get("type") == "integer":
        yield path.removeprefix("."), min(2_000_000, resolved(node).get("maximum", 2_000_000))
    for key, inner in resolved(node).get("properties", {}).items():
        yield from numbers(inner, f"{path}.{key}")


@pytest.mark.e2e
def test_a_large_number_has_all_its_digits(tmp_path: Path) -> None:
    """Helm reads the numbers in a file as floats, of which Go's templates show 2e+06."""
    values: dict[str, Any] = {}
    for path, large in numbers(SCHEMA):
        *groups, key = path.split(".")
        functools.reduce(lambda at, group: at.setdefault(group, {}), groups, values)[key] = large
    (tmp_path / "values.yaml").write_text(json.dumps(values))
    text = rendered("full", "--values", str(tmp_path / "values.yaml"))
    assert "--timeout=2000000" in text
    assert re.findall(r"\d[eE]\+?\d+\b", text.replace("sha256:", "")) == []


def names(node: dict[str, Any], path: str = "") -> Iterator[str]:
    """The values that are the name of an object of Kubernetes."""
    if NAME in (node, *node.get("anyOf", [])):
        yield path.removeprefix(".")
    for key, inner in resolved(node).get("properties", {}).items():
        yield from names(inner, f"{path}.{key}")


@pytest.mark.e2e
@pytest.mark.parametrize("without", [("pipeline.volume", "mlflow.volume.existingClaim"), ("tuning.ray",)])
@pytest.mark.parametrize("word", ["2026", "1e3", "true", "null"])
def test_a_name_stays_text(word: str, without: tuple[str, ...]) -> None:
    """YAML reads these as numbers and the like where nothing quotes them."""
    paths = [path for path in names(SCHEMA) if path not in without]
    assert {"priorityClassName", "serving.existingSecret", "mlflow.serviceAccount.name"} <= {*paths}

    def made(name: str) -> list[Manifest]:
        given: dict[str, Any] = {**dict.fromkeys(paths, name), "imagePullSecrets": [{"name": name}]}
        given |= {"tuning.ray": "tuning.ray" not in without, "s3.endpoint": f"http://minio.{name}.svc:9000"}
        given |= {f"{part}.serviceAccount.name": f"{name}{place}" for place, part in enumerate(("mlflow", "serving"))}
        given |= {"fullnameOverride": name if word.isalpha() else "cutouts"}  # it begins with a letter
        options = [part for path, value in given.items() for part in ("--set-json", f"{path}={json.dumps(value)}")]
        return manifests("full", *options, release=name, namespace=name)

    assert made(word) == json.loads(json.dumps(made("another")).replace("another", word))


EMPTY = {str: "", list: [], dict: {}}


@pytest.mark.e2e
@pytest.mark.parametrize("group", sorted(VALUES.keys() - {"enabled", "global"}))
def test_null_is_refused_or_empty(group: str) -> None:
    """As in `nodeSelector:` with nothing below it: Helm takes the default away, and templates find nothing there."""
    schema = jsonschema.Draft7Validator(SCHEMA)
    for path, default in documented().items():
        full_map = isinstance(default, dict) and default  # which Helm merges with an empty one
        if path.split(".")[0] == group and schema.is_valid(changed(path, None)) and not full_map:
            null, empty = (
                helm("template", "x", str(CHART), *values_of("full"), "--set-json", f"{path}={json.dumps(value)}")
                for value in (None, EMPTY[type(default)])
            )
            assert (null.stdout, null.stderr) == (empty.stdout, empty.stderr), path


@pytest.mark.e2e
@pytest.mark.parametrize("group", sorted(VALUES.keys() - {"enabled", "global"}))
def test_every_value_changes_what_is_installed(group: str) -> None:
    schema, own = jsonschema.Draft7Validator(SCHEMA), {path for path in documented() if path.split(".")[0] == group}
    for path in own:
        fits = (sample for sample in SAMPLES if schema.is_valid(changed(path, sample)))
        made = (outcome("--set-json", f"{path}={json.dumps(one)}") for one in fits)
        assert any(other != outcome() for other in made), path


@pytest.mark.e2e
def test_global_may_hold_anything() -> None:
    assert rendered("defaults", "--set", "global.team.name=studio") == rendered()
