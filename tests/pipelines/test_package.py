"""The compiled package, read as a cluster would: as parsed YAML."""

import json
import re
import runpy
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml
from kfp import components, dsl, kubernetes
from kfp.compiler import Compiler

from backdrop import __version__
from backdrop.common.errors import ConfigError
from backdrop.components import image
from backdrop.components.places import place_outputs
from backdrop.config import Ensemble, find_ensemble, find_recipe
from backdrop.config.catalog import shipped
from backdrop.config.cluster import (
    CONFIG_KEYS,
    NETWORK_KEYS,
    SECRET_KEYS,
    SIGNING_KEY,
    TRUSTED_KEY,
    VOLUME_FOLDER,
    WEBHOOK_KEYS,
    Pods,
)
from backdrop.config.planned import planned
from backdrop.config.records import override, parse
from backdrop.pipelines.package import Package, build, digest
from backdrop.pipelines.size import MOST, estimate_size
from backdrop.pipelines.training import training, with_overrides

RECIPES = ("tiny", "tiny-linknet")
WORK = "condition-1"  # KFP's name of the branch for what is missing
MEMBERS = [f"{WORK}/members-{recipe}/train-{fold}" for recipe in RECIPES for fold in range(3)]
EVALUATE, REGISTER, PROMOTE = f"{WORK}/evaluate", f"{WORK}/register", f"{WORK}/condition-2/promote"
ALL = ["check", "plan", EVALUATE, REGISTER, PROMOTE, *MEMBERS]
ON_GPU = [EVALUATE, *MEMBERS]
NODES = ("node_selector", "tolerations", "cpu_node_selector", "cpu_tolerations")


# A recipe on the ensemble's own folds, and two more on schemes of their own.
MIXED = """
name: mixed
folds: {count: 2}
members:
  - {recipe: tiny}
  - group: others
    folds: {count: 3, by: area_rank, view: "05"}
    members:
      - {recipe: tiny-linknet}
      - {recipe: tiny, set: {name: shuffled}, folds: {count: 4, by: random, seed: 7}}
"""


@pytest.fixture(scope="module")
def package() -> Package:
    return build(find_ensemble("demo"))


@pytest.fixture(scope="module")
def mixed(tmp_path_factory: pytest.TempPathFactory) -> Ensemble:
    path = tmp_path_factory.mktemp("mixed") / "mixed.yaml"
    path.write_text(MIXED)
    return find_ensemble(str(path))


@pytest.fixture(scope="module")
def graph(package: Package) -> dict[str, Any]:
    return next(yaml.safe_load_all(package.dump()))


@pytest.fixture(scope="module")
def settings(package: Package) -> dict[str, Any]:
    document = list(yaml.safe_load_all(package.dump()))[1]
    return document["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


@dataclass(frozen=True)
class Place:
    """A task as it runs: in its sub-pipelines, which may be used more than once."""

    task: dict[str, Any]
    component: dict[str, Any]
    parents: tuple[dict[str, Any], ...] = ()

    def value(self, name: str) -> Any:
        """The source of an input, followed out of the sub-pipelines: a constant, or how the root graph names it."""
        return self._follow("parameters", name, "componentInputParameter")

    def artifact(self, name: str) -> tuple[str, str]:
        """The task that makes an input artifact, and its name there."""
        made = self._follow("artifacts", name, "componentInputArtifact")["taskOutputArtifact"]
        return made["producerTask"], made["outputArtifactKey"]

    def _follow(self, kind: str, name: str, key: str) -> Any:
        source: Any = None
        for task in (self.task, *self.parents):
            source = task["inputs"][kind][name]
            if key not in source:
                return source["runtimeValue"]["constant"] if "runtimeValue" in source else source
            name = source[key]
        return source


def tasks_of(graph: dict[str, Any], part: Any = None, path: str = "", parents: Any = ()) -> dict[str, Place]:
    """Every task that runs a container, also those inside branches and sub-pipelines."""
    found = {}
    for name, task in (part or graph["root"])["dag"]["tasks"].items():
        component = graph["components"][task["componentRef"]["name"]]
        if "dag" in component:
            found |= tasks_of(graph, component, f"{path}{name}/", (task, *parents))
        else:
            found[f"{path}{name}"] = Place(task, component, parents)
    return found


def output_of(task: str, name: str) -> dict[str, Any]:
    return {"taskOutputParameter": {"producerTask": task, "outputParameterKey": name}}


def container(graph: dict[str, Any], task: str) -> dict[str, Any]:
    return graph["deploymentSpec"]["executors"][tasks_of(graph)[task].component["executorLabel"]]["container"]


def settings_of(graph: dict[str, Any], settings: dict[str, Any], task: str) -> dict[str, Any]:
    return settings[tasks_of(graph)[task].component["executorLabel"]]


def test_each_member_has_a_train_task_of_its_own(graph: dict[str, Any]) -> None:
    tasks = tasks_of(graph)
    assert sorted(tasks) == sorted(ALL)
    for recipe in RECIPES:
        for fold in range(3):
            task = tasks[f"{WORK}/members-{recipe}/train-{fold}"]
            assert task.task["taskInfo"]["name"] == f"train-{fold}"
            assert (task.value("recipe"), task.value("fold"), task.value("searched")) == (recipe, fold, "")
            assert task.value("out") == (
                f"{{{{$.inputs.parameters['pipelinechannel--work']}}}}/"
                f"{{{{$.inputs.parameters['pipelinechannel--recipe']}}}}-{fold}-{{key}}"
            )
            assert task.value("pipelinechannel--recipe") == recipe
            assert task.artifact("config") == ("check", "config")
            assert task.artifact("plans") == ("plan", "plans")
            assert task.value("missing") == output_of("plan", "missing")


@pytest.mark.parametrize("task", ON_GPU)
def test_gpu_task_has_its_place(task: str, graph: dict[str, Any], settings: dict[str, Any]) -> None:
    # evaluate stands in a branch, where pipeline parameters have another name.
    prefix = "pipelinechannel--" if task == EVALUATE else ""
    resources = container(graph, task)["resources"]
    assert resources["accelerator"] == {
        "resourceType": "{{$.inputs.parameters['pipelinechannel--accelerator']}}",
        "resourceCount": "{{$.inputs.parameters['pipelinechannel--gpus']}}",
    }
    assert resources["resourceMemoryLimit"] == "{{$.inputs.parameters['pipelinechannel--memory']}}"
    own = tasks_of(graph)[task]
    assert own.value("pipelinechannel--accelerator") == {"componentInputParameter": "accelerator"}
    number, group = (MEMBERS.index(task), MEMBERS.index(task) // 3) if task in MEMBERS else (0, 0)
    for name, output in (("gpus", f"gpus_{number}"), ("cpu", f"cpu_{group}"), ("memory", f"memory_{group}")):
        source = output_of("plan", output) if task in MEMBERS else {"componentInputParameter": name}
        assert own.value(f"pipelinechannel--{name}") == source
    if task in MEMBERS:
        for name in ("node_selector", "tolerations"):
            assert own.parents[0]["inputs"]["parameters"][name] == {
                "componentInputParameter": f"pipelinechannel--plan-{name}_{group}"
            }
    place = settings_of(graph, settings, task)
    assert place["nodeSelector"]["nodeSelectorJson"]["componentInputParameter"] == f"{prefix}node_selector"
    assert [entry["tolerationJson"]["componentInputParameter"] for entry in place["tolerations"]] == [
        f"{prefix}tolerations"
    ]
    assert place["emptyDirMounts"] == [
        {"medium": "Memory", "mountPath": "/dev/shm", "sizeLimit": "8Gi", "volumeName": "shared-memory"}
    ]
    policy = tasks_of(graph)[task].task["retryPolicy"]
    assert policy["maxRetryCount"] == 2
    assert policy["backoffDuration"] == "60s"
    assert float(policy["backoffMaxDuration"].removesuffix("s")) >= 30 * 24 * 3600  # from the first attempt on


def nodes_of(place: dict[str, Any]) -> tuple[str, str]:
    """The inputs that a task's node selector and its tolerations are read from, without what KFP and `plan` add."""
    (toleration,) = place["tolerations"]
    sources = place["nodeSelector"]["nodeSelectorJson"], toleration["tolerationJson"]
    names = (one["componentInputParameter"] for one in sources)
    selector, tolerations = (re.sub(r"^pipelinechannel--(plan-)?|_\d+$", "", name) for name in names)
    return selector, tolerations


@pytest.mark.parametrize("ray", [False, True])
def test_every_task_can_be_steered(ray: bool) -> None:
    """In a cluster whose nodes are all tainted a task without tolerations never starts."""
    graph, settings = tuned(ray)
    for task in tasks_of(graph):
        gpu = "accelerator" in container(graph, task)["resources"]
        assert nodes_of(settings_of(graph, settings, task)) == (NODES[:2] if gpu else NODES[2:]), task


def test_parameters_and_their_defaults(graph: dict[str, Any]) -> None:
    inputs = graph["root"]["inputDefinitions"]["parameters"]
    defaults = {name: entry.get("defaultValue") for name, entry in inputs.items()}
    assert defaults == {
        "data": None,
        "name": "demo",
        "work": "/tmp/backdrop",
        "objects": 0,
        "promotion": True,
        "accelerator": "nvidia.com/gpu",
        "gpus": "1",
        "cpu": "4",
        "memory": "16Gi",
        "node_selector": {"nvidia.com/gpu.present": "true"},
        "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
        "cpu_node_selector": {},
        "cpu_tolerations": [],
        "ray_workers": 2,
        "ray_cluster": {},
    }
    assert [name for name, entry in inputs.items() if not entry.get("isOptional")] == ["data"]
    # The backend reads a number as empty text where a resource is asked for.
    assert {inputs[name]["parameterType"] for name in ("accelerator", "gpus", "cpu", "memory")} == {"STRING"}


@pytest.mark.parametrize("task", ALL)
def test_every_task_is_no_root_and_uncached(task: str, graph: dict[str, Any], settings: dict[str, Any]) -> None:
    security = settings_of(graph, settings, task)["securityContext"]
    assert security["runAsNonRoot"] is True
    assert not {"runAsUser", "runAsGroup"} & security.keys()  # the image's, or what the cluster assigns
    dockerfile = Path(__file__).parents[2] / "Dockerfile"
    assert re.search(r"^USER [1-9]\d*:", dockerfile.read_text(), re.MULTILINE)  # Kubernetes can't check a name
    assert not tasks_of(graph)[task].task["cachingOptions"].get("enableCache", False)


# Only the task that registers has the private key.
SIGNING = dict.fromkeys(("plan", EVALUATE, PROMOTE), (TRUSTED_KEY,)) | {REGISTER: (SIGNING_KEY, TRUSTED_KEY)}


@pytest.mark.parametrize("task", ALL)
def test_secrets_are_only_referred_to(task: str, graph: dict[str, Any], settings: dict[str, Any]) -> None:
    place = settings_of(graph, settings, task)
    (settled, network), (secret,) = place["configMapAsEnv"], place["secretAsEnv"]
    for source, kind, name, keys in (
        (settled, "configMap", "backdrop", CONFIG_KEYS),
        (network, "configMap", "backdrop-network", NETWORK_KEYS),
        (secret, "secret", "backdrop", (*SECRET_KEYS, *WEBHOOK_KEYS, *SIGNING.get(task, ()))),
    ):
        assert source["optional"]
        assert {pair[f"{kind}Key"]: pair["envVar"] for pair in source["keyToEnv"]} == {
            key: f"BACKDROP_{key}" if key.startswith("AWS_") else key for key in keys
        }
        assert source[f"{kind}NameParameter"]["runtimeValue"]["constant"] == name
    (mounted,) = place["configMapAsVolume"]
    assert (mounted["mountPath"], mounted["optional"]) == ("/etc/backdrop/network", True)
    assert container(graph, task).get("env", []) == [{"name": "PYTHONUNBUFFERED", "value": "1"}]


@pytest.mark.parametrize("task", ALL)
def test_every_task_has_requests_and_limits(task: str, graph: dict[str, Any]) -> None:
    resources = container(graph, task)["resources"]
    light = task not in ON_GPU
    assert (resources["resourceCpuRequest"] == "500m") == light
    assert (resources["resourceMemoryRequest"] == "2Gi") == light
    assert resources["resourceCpuLimit"] == ("2" if light else resources["resourceCpuRequest"])
    assert resources["resourceMemoryRequest"] == resources["resourceMemoryLimit"]


def test_environment_leaves_no_trace(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in (*CONFIG_KEYS, *SECRET_KEYS, *WEBHOOK_KEYS, SIGNING_KEY, TRUSTED_KEY):
        monkeypatch.setenv(key, "no-one-may-read-this")
    assert b"no-one-may-read-this" not in build(find_ensemble("tiny")).dump()


def test_nothing_is_installed_when_a_pod_starts(graph: dict[str, Any]) -> None:
    cuda, cpu = (f"ghcr.io/backdrop-ml/{name}:{__version__}" for name in ("backdrop", "backdrop-cpu"))
    images = {task: container(graph, task)["image"] for task in ALL}
    assert images == {task: cuda if task in ON_GPU else cpu for task in ALL}
    assert not any("pip install" in part for task in ALL for part in container(graph, task)["command"])


def test_image_is_named_by_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    assert image.__file__
    monkeypatch.delenv("BACKDROP_CPU_IMAGE", raising=False)
    monkeypatch.setenv("BACKDROP_IMAGE", "registry.example/backdrop@sha256:1")
    own = runpy.run_path(image.__file__)
    assert (own["IMAGE"], own["CPU_IMAGE"]) == ("registry.example/backdrop@sha256:1",) * 2
    monkeypatch.setenv("BACKDROP_CPU_IMAGE", "registry.example/cpu:1")
    assert runpy.run_path(image.__file__)["CPU_IMAGE"] == "registry.example/cpu:1"


def test_every_channel_is_declared_where_it_is_used(graph: dict[str, Any], settings: dict[str, Any]) -> None:
    """A known trap: KFP compiles a resource's parameter inside a branch without declaring it there."""
    dags = {"root": graph["root"], **{name: c for name, c in graph["components"].items() if "dag" in c}}
    for part in dags.values():
        declared = part["inputDefinitions"]["parameters"]
        for name, task in part["dag"]["tasks"].items():
            inputs = task.get("inputs", {}).get("parameters", {})
            used = {value["componentInputParameter"] for value in inputs.values() if "componentInputParameter" in value}
            label = graph["components"][task["componentRef"]["name"]].get("executorLabel", "")
            used |= set(re.findall(r"componentInputParameter\": \"([^\"]+)", json.dumps(settings.get(label, {}))))
            assert used <= set(declared), name
            executor = graph["deploymentSpec"]["executors"].get(label, {})
            placeholders = re.findall(r"\{\{\$\.inputs\.parameters\['([^']+)'\]\}\}", json.dumps(executor))
            assert set(placeholders) <= set(inputs), name


def test_no_trap_that_kfp_springs_silently(graph: dict[str, Any]) -> None:
    text = json.dumps(graph)
    assert "Iterator" not in text  # ParallelFor: retries are ignored in it, and items get mixed up
    assert "exit-handler" not in text
    optional = [
        name
        for name, entry in graph["root"]["inputDefinitions"]["parameters"].items()
        if entry.get("isOptional") and entry.get("defaultValue") is None
    ]
    assert optional == []  # a parameter that may be None fails in a local run


def test_all_members_are_judged_together(graph: dict[str, Any]) -> None:
    tasks = tasks_of(graph)
    outputs = [f"members-{recipe}-fold_{fold}" for recipe in RECIPES for fold in range(3)]
    members = tasks[EVALUATE].value("members")
    assert members == [f"{{{{$.inputs.parameters['pipelinechannel--{output}']}}}}" for output in outputs]
    for fold in range(3):
        source = tasks[EVALUATE].value(f"pipelinechannel--members-tiny-fold_{fold}")["taskOutputParameter"]
        assert source == {"producerTask": "members-tiny", "outputParameterKey": f"fold_{fold}"}
        group = graph["components"]["comp-members-tiny"]["dag"]["outputs"]["parameters"][f"fold_{fold}"]
        assert group["valueFromParameter"]["producerSubtask"] == f"train-{fold}"
    judged = tasks[REGISTER].value("members")["taskOutputParameter"]
    assert judged == {"producerTask": "evaluate", "outputParameterKey": "Output"}


def test_work_begins_only_if_something_is_missing(graph: dict[str, Any]) -> None:
    tasks = graph["root"]["dag"]["tasks"]
    assert sorted(tasks) == ["check", WORK, "plan"]
    assert tasks[WORK]["taskInfo"]["name"] == "work"
    assert tasks[WORK]["triggerPolicy"]["condition"] == (
        "inputs.parameter_values['pipelinechannel--plan-Output'] == true"
    )
    assert tasks[WORK]["inputs"]["parameters"]["pipelinechannel--plan-Output"] == output_of("plan", "Output")
    inner = graph["components"]["comp-condition-1"]["dag"]["tasks"]
    branches = {task["taskInfo"]["name"] for task in inner.values() if "triggerPolicy" in task}
    assert branches == {"promotion"}  # a branch for each member would skip what evaluate waits for


def test_before_the_work_nothing_asks_for_a_gpu(graph: dict[str, Any], settings: dict[str, Any]) -> None:
    """An unchanged run ends after these two tasks, and a champion is only compared by what was predicted before."""
    for task in ("check", "plan", REGISTER, PROMOTE):
        assert "accelerator" not in container(graph, task)["resources"]


def test_plan_knows_the_run(graph: dict[str, Any]) -> None:
    plan = tasks_of(graph)["plan"]
    for name in ("objects", "promotion", "name", "gpus", "cpu", "memory", *NODES):
        assert plan.value(name) == {"componentInputParameter": name}
    assert plan.value("groups") == [[f"train-{recipe}-{fold}" for fold in range(3)] for recipe in RECIPES]
    assert (plan.value("tuned"), plan.value("folds")) == ("off", [])
    assert plan.artifact("config") == ("check", "config")
    outputs = graph["components"]["comp-plan"]["outputDefinitions"]["parameters"]
    kinds = {name: entry["parameterType"] for name, entry in outputs.items()}
    assert kinds.pop("Output") == "BOOLEAN"
    assert {name: kind for name, kind in kinds.items() if kind != "STRING"} == {
        "node_selector_0": "STRUCT",
        "node_selector_1": "STRUCT",
        "tolerations_0": "LIST",
        "tolerations_1": "LIST",
    }
    assert set(kinds) == {"missing", *place_outputs(plan.value("groups"))}


def test_a_search_that_exists_takes_no_gpu() -> None:
    tasks = tasks_of(build(find_ensemble("demo"), tuned="fast").documents[0])
    groups = tasks["plan"].value("groups")
    assert groups[:2] == [["tune-tiny"], ["tune-tiny-linknet"]]
    for number, recipe in enumerate(RECIPES):
        for name in ("gpus", "cpu", "memory"):
            channel = f"pipelinechannel--plan-{name}_{number}"
            assert tasks[f"{WORK}/tune-{recipe}"].value(channel) == output_of("plan", f"{name}_{number}")
        first = tasks[f"{WORK}/members-{recipe}/train-0"].value("pipelinechannel--gpus")
        assert first == output_of("plan", f"gpus_{2 + 3 * number}")
    on_ray = tasks_of(build(find_ensemble("demo"), tuned="fast", ray=True).documents[0])
    assert on_ray["plan"].value("groups") == groups[2:]


def test_plan_makes_the_plan_of_each_scheme(mixed: Ensemble) -> None:
    tasks = tasks_of(build(mixed).documents[0])
    members = [name for name in tasks if "train-" in name]
    assert len(members) == 2 + 3 + 4
    assert {tasks[name].artifact("plans") for name in (*members, EVALUATE, REGISTER)} == {("plan", "plans")}


def test_names_in_a_local_run_are_different(mixed: Ensemble) -> None:
    spec = training(mixed, flat=True).pipeline_spec
    names = [name for one in (spec.root, *spec.components.values()) for name in one.dag.tasks]
    assert len(set(names)) == len(names)
    assert {member.task for member in planned(mixed)} < set(names)


VARIANT = "best-overfitting-interview"  # of best-overfitting: as large, and as long to compile


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[pytest.mark.thorough] * (name == VARIANT)) for name in shipped("ensembles")],
)
def test_a_shipped_package_fits(name: str) -> None:
    documents = build(find_ensemble(name)).documents
    size = estimate_size(documents)
    assert size.spec < 270_000
    assert size.end < 570_000
    assert json.dumps(documents, ensure_ascii=False).isascii()
    assert not has_aws(documents)


def has_aws(documents: Any) -> bool:
    """Whether a task has a variable that Kubeflow's launcher in the same container reads as well."""
    return bool(re.search(r'"(name|envVar)": "AWS_', json.dumps(documents)))


def large(recipes: int, folds: int) -> Ensemble:
    own = find_recipe("linknet34-faithful").model_dump(mode="json")
    parts = [{"recipe": {**own, "name": f"linknet34-{number}"}} for number in range(recipes)]
    values = {"name": "large", "description": "Größer", "folds": {"count": folds}, "members": parts}
    return parse(Ensemble, values, "large.yaml")


def test_a_package_that_does_not_fit_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    size = estimate_size(build(find_ensemble("tiny")).documents)
    monkeypatch.setattr("backdrop.pipelines.size.MOST", size.end)
    build(find_ensemble("tiny"))
    monkeypatch.setattr("backdrop.pipelines.size.MOST", size.end - 1000)  # the version in it comes later
    with pytest.raises(ConfigError, match=r"Ensemble tiny has too many members: a run grows to 1\d\d kB"):
        build(find_ensemble("tiny"))


@pytest.mark.slow
def test_a_hundred_members_fit_and_two_hundred_do_not() -> None:
    package = build(large(10, 10))
    assert estimate_size(package.documents).end < MOST
    assert package.dump().isascii()
    assert json.dumps(package.documents, ensure_ascii=False).isascii()
    with pytest.raises(ConfigError, match=r"Ensemble large has too many members: a run grows to 1,\d\d\d kB"):
        build(large(20, 10))


def test_same_graph_same_bytes(package: Package) -> None:
    assert build(find_ensemble("demo")).dump() == package.dump()


def test_kfp_reads_what_we_write(package: Package) -> None:
    loaded = components.load_component_from_text(package.dump().decode())
    assert loaded.name == "backdrop-demo"
    assert "data" in loaded.required_inputs


def test_labels_and_retries_are_the_packages_own() -> None:
    pods = Pods({"kueue.x-k8s.io/queue-name": "vision"}, retries=5)
    made = build(find_ensemble("tiny"), [0], pods=pods)
    graph, settings = made.documents[0], made.documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert set(settings) == set(graph["deploymentSpec"]["executors"])
    for executor in settings.values():
        assert executor["podMetadata"] == {"labels": {"kueue.x-k8s.io/queue-name": "vision"}}
    retried = [
        place.task["retryPolicy"]["maxRetryCount"] for place in tasks_of(graph).values() if "retryPolicy" in place.task
    ]
    assert set(retried) == {5}
    assert made.version != build(find_ensemble("tiny"), [0]).version


def test_a_volume_is_mounted_in_every_pod_as_kfp_does_it(tmp_path: Path) -> None:
    made = build(find_ensemble("tiny"), [0], pods=Pods(volume="studio"))
    settings = made.documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]

    @dsl.component(base_image="backdrop")
    def task() -> None: ...

    @dsl.pipeline
    def graph() -> None:
        kubernetes.mount_pvc(task(), "studio", VOLUME_FOLDER)

    Compiler().compile(graph, str(tmp_path / "package.yaml"))
    _, theirs = yaml.safe_load_all((tmp_path / "package.yaml").read_text())
    wanted = theirs["platforms"]["kubernetes"]["deploymentSpec"]["executors"]["exec-task"]["pvcMount"]
    assert set(settings) == set(made.documents[0]["deploymentSpec"]["executors"])
    assert all(executor["pvcMount"] == wanted for executor in settings.values())


def test_version_changes_with_the_recipe(package: Package) -> None:
    other = build(with_overrides(find_ensemble("demo"), ["epochs=11"]))
    assert other.name == package.name == "backdrop-demo"
    assert re.fullmatch(re.escape(__version__) + "-[0-9a-f]{12}", package.version)
    assert other.version != package.version
    assert package.version in package.documents[0]["pipelineInfo"]["description"]


def test_digest_does_not_see_the_order() -> None:
    assert digest([{"a": 1, "b": 2}]) == digest([{"b": 2, "a": 1}]) != digest([{"a": 2, "b": 1}])


def test_some_folds_only() -> None:
    graph = build(find_ensemble("demo"), [2, 0]).documents[0]
    trained = [name for name in tasks_of(graph) if "train-" in name]
    assert set(trained) == {f"{WORK}/members-{recipe}/train-{fold}" for recipe in RECIPES for fold in (0, 2)}


@pytest.mark.parametrize("key", ["name", "members.0.recipe.name"])
def test_a_name_too_long_for_kubeflow_is_refused(key: str) -> None:
    ensemble = find_ensemble("tiny")
    values = ensemble.model_dump(mode="json") | {"members": [{"recipe": find_recipe("tiny").model_dump(mode="json")}]}
    parse(Ensemble, override(values, [f"{key}={'x' * 119}"]), "mine.yaml")
    with pytest.raises(ConfigError, match=r"can't be x+\. Use at most 119 lowercase letters, digits and hyphens"):
        parse(Ensemble, override(values, [f"{key}={'x' * 120}"]), "mine.yaml")
    assert len(build(ensemble.model_copy(update={"name": "x" * 119})).name) == 128


def test_unknown_fold_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"no fold 3. Its folds are 0 to 2"):
        planned(find_ensemble("demo"), [0, 3])


def test_some_folds_of_several_schemes(mixed: Ensemble) -> None:
    assert [member.name for member in planned(mixed, [2, 3])] == ["tiny-linknet-2", "shuffled-2", "shuffled-3"]
    with pytest.raises(ConfigError, match=r"no fold 4. Its folds are 0 to 3"):
        planned(mixed, [4])


def test_overrides_go_into_every_recipe() -> None:
    ensemble = with_overrides(find_ensemble("demo"), ["epochs=3", "optimizer.weight_decay=0.5"])
    assert {(part.resolve().epochs, part.resolve().optimizer.weight_decay) for part in ensemble.members} == {(3, 0.5)}
    assert ensemble.members[0].resolve().input == find_ensemble("demo").members[0].resolve().input


def test_overrides_leave_folds_and_weights_alone(mixed: Ensemble) -> None:
    changed = with_overrides(mixed, ["epochs=3"])
    assert changed.plans() == mixed.plans()
    assert changed.weights() == mixed.weights()


def test_wrong_override_names_the_right_one() -> None:
    with pytest.raises(ConfigError, match="Did you mean epochs"):
        with_overrides(find_ensemble("tiny"), ["epohcs=3"])


def test_no_override_changes_nothing() -> None:
    assert with_overrides(find_ensemble("tiny"), []).members[0].resolve() == find_recipe("tiny")


def tuned(ray: bool) -> tuple[dict[str, Any], dict[str, Any]]:
    graph, settings = yaml.safe_load_all(build(find_ensemble("demo"), tuned="fast", ray=ray).dump())
    return graph, settings["platforms"]["kubernetes"]["deploymentSpec"]["executors"]


def test_members_train_with_the_schedule_that_a_search_found() -> None:
    graph, settings = tuned(ray=False)
    tasks = tasks_of(graph)
    searches = [f"{WORK}/tune-{recipe}" for recipe in RECIPES]
    assert sorted(tasks) == sorted([*ALL, *searches])
    for recipe in RECIPES:
        assert tasks[f"{WORK}/tune-{recipe}"].value("recipe") == recipe
        for fold in range(3):
            searched = tasks[f"{WORK}/members-{recipe}/train-{fold}"].value("searched")
            assert searched["taskOutputParameter"]["producerTask"] == f"tune-{recipe}"
    for name in (EVALUATE, REGISTER):
        assert tasks[name].value("tuned") is True
    for name in searches:
        assert tasks[name].value("workers") == 0
        assert "accelerator" in container(graph, name)["resources"]
        assert settings_of(graph, settings, name)["emptyDirMounts"]


def test_a_task_that_watches_a_ray_cluster_takes_no_gpu() -> None:
    graph, settings = tuned(ray=True)
    task = tasks_of(graph)[f"{WORK}/tune-tiny"]
    assert task.value("workers") == {"componentInputParameter": "ray_workers"}
    assert task.value("cluster") == {"componentInputParameter": "ray_cluster"}
    assert task.value("node_selector") == {"componentInputParameter": "node_selector"}
    assert "accelerator" not in container(graph, f"{WORK}/tune-tiny")["resources"]
    for name in ("node_selector", "tolerations"):
        assert task.value(f"head_{name}") == {"componentInputParameter": f"cpu_{name}"}
    assert not has_aws([graph, settings])


def test_without_a_search_recipes_are_the_ensembles(graph: dict[str, Any]) -> None:
    assert tasks_of(graph)[EVALUATE].value("tuned") is False
