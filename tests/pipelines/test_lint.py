"""The lint: what KFP compiles and shouldn't is refused, and what is shipped passes."""

from collections.abc import Callable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple, Optional

import pytest
import yaml
from kfp import dsl, kubernetes
from kfp.compiler import Compiler
from kfp.dsl import PipelineTask

from backdrop.common.errors import ConfigError
from backdrop.config import find_ensemble
from backdrop.config.catalog import shipped
from backdrop.pipelines.lint import CHECKS, _tasks, lint, refuse
from backdrop.pipelines.package import build

IMAGE = "registry.example/backdrop:1"
component = dsl.component(base_image=IMAGE, packages_to_install=[], install_kfp_package=False)


@component
def say(text: str) -> str:
    return text


@component
def yes() -> bool:
    return True


@dsl.component(base_image=IMAGE, packages_to_install=["pillow"])
def greedy() -> None:
    pass


def settle(task: PipelineTask) -> PipelineTask:
    """All that a task needs to pass."""
    task.set_caching_options(False)
    kubernetes.set_security_context(task, run_as_user=1000, run_as_non_root=True)
    return task


def shared_memory(task: PipelineTask) -> PipelineTask:
    return kubernetes.empty_dir_mount(task, "shm", "/dev/shm", medium="Memory", size_limit="1Gi")


def memory_in_loop(items: list[str] = ["a"], memory: str = "1Gi") -> None:  # noqa: B006  # KFP reads it
    with dsl.ParallelFor(items) as item:
        settle(say(text=item)).set_memory_limit(memory)


def item_in_text(items: list[str] = ["a"]) -> None:  # noqa: B006  # KFP reads it
    with dsl.ExitHandler(settle(say(text="end"))), dsl.ParallelFor(items) as item:
        settle(say(text=f"it is {item}"))


def retried_in_loop(items: list[str] = ["a"]) -> None:  # noqa: B006  # KFP reads it
    with dsl.ParallelFor(items) as item, dsl.If(item == "a"):
        settle(say(text=item)).set_retry(2)


def loop_in_loop(outer: list[str] = ["a"], inner: list[str] = ["b"]) -> None:  # noqa: B006  # KFP reads it
    with dsl.ParallelFor(outer), dsl.ParallelFor(inner) as item:
        settle(say(text=item))


def loop_with_output(items: list[str] = ["a"]) -> None:  # noqa: B006  # KFP reads it
    before = settle(say(text="before"))
    with dsl.ParallelFor(items):
        settle(say(text=before.output))


def item_in_condition() -> None:
    with dsl.ParallelFor([{"go": "y"}]) as item, dsl.If(item.go == "y"):
        settle(say(text="going"))


def single_quote(text: str = "x") -> None:
    with dsl.If(text == "it's"):
        settle(say(text="never"))


def double_quotes(text: str = "x") -> None:
    with dsl.If(text == "x"):
        settle(say(text="fine"))
    with dsl.Elif(text == 'say "x"'):
        settle(say(text="never"))


def quotes_around(text: str = "x") -> None:
    with dsl.If(text == "'x'"):
        settle(say(text="never"))


def cached() -> None:
    settle(say(text="x")).set_caching_options(True)


def no_context() -> None:
    say(text="x").set_caching_options(False)


def root() -> None:
    kubernetes.set_security_context(settle(say(text="x")), run_as_user=0, run_as_non_root=False)


def no_registry() -> None:
    settle(say(text="x")).set_container_image("backdrop:1")


def user_but_no_registry() -> None:
    settle(say(text="x")).set_container_image("me/backdrop:1")


def latest() -> None:
    settle(say(text="x")).set_container_image("localhost:5000/backdrop:latest")


def no_tag() -> None:
    settle(say(text="x")).set_container_image("localhost:5000/backdrop")


def installs() -> None:
    settle(greedy())


def gpu_only() -> None:
    settle(say(text="x")).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(1)


def number_of_gpus(gpus: int = 1) -> None:
    shared_memory(settle(say(text="x"))).set_accelerator_type("nvidia.com/gpu").set_accelerator_limit(gpus)


def stopped_early() -> None:
    settle(say(text="x")).set_retry(2, backoff_max_duration="600s")


def secret_name() -> None:
    settle(say(text="x")).set_env_variable("AWS_SECRET_ACCESS_KEY", "hunter2")


def secret_in_address() -> None:
    settle(say(text="https://me:hunter2@mlflow.example"))


def secret_in_environment() -> None:
    settle(say(text="x")).set_env_variable("HINT", "AKIAIOSFODNN7EXAMPLE")


def optional(text: Optional[str] = None) -> None:  # noqa: UP045  # kfp knows no other form
    settle(say(text=text))


class Case(NamedTuple):
    graph: Callable[..., None]
    said: str


BAD = [
    Case(memory_in_loop, "task say uses memory, which no graph around it declares"),
    Case(item_in_text, "task exit-handler-1 uses items-loop-item, which no graph around it declares"),
    Case(retried_in_loop, "task say is in a loop, where clusters ignore its retries"),
    Case(loop_in_loop, "task for-loop-2 is a loop in a loop"),
    Case(loop_with_output, "task for-loop-1 reads say-Output in a loop"),
    Case(item_in_condition, "task condition-3 compares a field of a loop's item"),
    Case(single_quote, "task condition-1 compares with a text that contains a quote"),
    Case(double_quotes, "task condition-3 compares with a text that contains a quote"),
    Case(quotes_around, "task condition-1 compares with a text that contains a quote"),
    Case(cached, "task say is cached by KFP"),
    Case(no_context, "task say may run as root"),
    Case(root, "task say may run as root"),
    Case(no_registry, "task say has the image backdrop:1 without a registry"),
    Case(user_but_no_registry, "task say has the image me/backdrop:1 without a registry"),
    Case(latest, "task say has the image localhost:5000/backdrop:latest, which changes over time"),
    Case(no_tag, "task say has the image localhost:5000/backdrop without a tag"),
    Case(installs, "task greedy installs packages when its pod starts"),
    Case(gpu_only, "task say has a GPU but only a pod's default 64 MiB of /dev/shm"),
    Case(stopped_early, "task say is stopped 600s after its first attempt began"),
    Case(number_of_gpus, "task say requests a resource by gpus, a number"),
    Case(secret_name, "task say has AWS_SECRET_ACCESS_KEY in plain text"),
    Case(secret_in_address, "task say contains a password or a key in plain text"),
    Case(secret_in_environment, "task say contains a password or a key in plain text"),
    Case(optional, "parameter text may be None"),
]


@cache
def compiled(graph: Callable[..., None]) -> list[dict[str, Any]]:
    """A graph's package. Graphs are made here, and not by decorators, which every worker would run to collect this."""
    with TemporaryDirectory() as folder:
        path = Path(folder, "package.yaml")
        Compiler().compile(dsl.pipeline(graph), str(path))
        return list(yaml.safe_load_all(path.read_text()))


@pytest.mark.parametrize(("graph", "said"), BAD, ids=[case.graph.__name__ for case in BAD])
def test_refused(graph: Callable[..., None], said: str) -> None:
    documents = compiled(graph)
    findings = lint(documents)
    assert [line for line in findings if line.startswith(said)]
    assert len({line.split(":")[0] for line in findings}) <= 2  # and nothing that isn't so
    name = graph.__name__.replace("_", "-")
    with pytest.raises(ConfigError, match=rf"^Pipeline {name}: .*{said[:20]}.*Fix the pipeline's code\.$") as caught:
        refuse(documents)
    assert "hunter2" not in str(caught.value)


def test_every_check_has_a_case() -> None:
    silent = set(CHECKS)
    for case in BAD:
        graph, *others = compiled(case.graph)
        settings = others[0]["platforms"]["kubernetes"]["deploymentSpec"]["executors"] if others else {}
        tasks = list(_tasks(graph, settings, graph["root"]))
        silent -= {check for check in CHECKS for task in tasks if list(check(task))}
    assert not silent


@dsl.pipeline
def part(word: str) -> None:
    settle(say(text=word))


def good(image: str, text: str = "", memory: str = "1Gi", gpus: str = "1", items: list[str] = ["a"]) -> None:  # noqa: B006
    """Near each trap, and in none."""
    first = settle(say(text=text)).set_retry(2, backoff_max_duration="7776000s")
    task = shared_memory(settle(say(text=first.output))).set_accelerator_type("nvidia.com/gpu")
    task.set_accelerator_limit(gpus).set_memory_limit(memory)
    settle(say(text="s3://photos/cars?a@b:c")).set_container_image(image)
    settle(say(text="x")).set_container_image("localhost:5000/me/backdrop@sha256:1").set_env_variable(
        "TOKENIZERS_PARALLELISM", "false"
    )
    with dsl.If(text == "plain (text) = x"):
        settle(say(text="x"))
    with dsl.If(settle(yes()).output == True), dsl.ParallelFor(items) as item:  # noqa: E712  # KFP compiles it
        part(word=item)


def test_what_is_good_passes() -> None:
    assert lint(compiled(good)) == []


@pytest.mark.parametrize("name", shipped("ensembles"))
def test_shipped_ensembles_pass(name: str) -> None:
    assert lint(build(find_ensemble(name), [0]).documents) == []


def test_a_long_list_is_cut() -> None:
    def many() -> None:
        for _ in range(4):
            say(text="x")

    with pytest.raises(ConfigError, match=r"; and 3 more\. Fix"):
        refuse(compiled(many))
