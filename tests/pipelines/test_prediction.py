"""The compiled prediction pipeline, read as a cluster would: as parsed YAML."""

import pytest

from backdrop.common.errors import ConfigError
from backdrop.components.image import CPU_IMAGE, IMAGE
from backdrop.config import find_ensemble
from backdrop.config.cluster import Pods
from backdrop.pipelines.package import build, build_prediction
from backdrop.pipelines.size import MOST, estimate_size

SHARES = 16


def test_each_share_is_a_task_that_is_placed_alone() -> None:
    made = build_prediction(SHARES, Pods({"team": "shop"}, retries=1, volume="studio"))
    graph, settings = made.documents[0], made.documents[1]["platforms"]["kubernetes"]["deploymentSpec"]["executors"]
    assert made.name == "backdrop-prediction"
    assert set(graph["root"]["dag"]["tasks"]) == {"shard", "condition-1"}
    assert set(graph["components"]["comp-condition-1"]["dag"]["tasks"]) == {"shares", "merge"}
    inside = graph["components"]["comp-shares"]["dag"]["tasks"]
    assert set(inside) == {f"predict-{number}" for number in range(1, SHARES + 1)}
    executors = graph["deploymentSpec"]["executors"]
    for number in range(1, SHARES + 1):
        task = inside[f"predict-{number}"]
        inputs = task["inputs"]["parameters"]
        assert inputs["number"]["runtimeValue"]["constant"] == number
        (gpus,) = [one for name, one in inputs.items() if name.endswith("--gpus")]
        assert gpus["componentInputParameter"] == f"gpus_{number - 1}"
        assert task["retryPolicy"]["maxRetryCount"] == 1
    images = {name: executor["container"]["image"] for name, executor in executors.items()}
    assert {image for name, image in images.items() if "predict" in name} == {IMAGE}
    assert {image for name, image in images.items() if "predict" not in name} == {CPU_IMAGE}
    assert all(not resources_of_gpu(executor) for name, executor in executors.items() if "predict" not in name)
    for executor in settings.values():
        assert executor["podMetadata"] == {"labels": {"team": "shop"}}
        assert executor["pvcMount"][0]["constant"] == "studio"
        assert executor["securityContext"] == {"runAsNonRoot": True}
        variables = [one["envVar"] for part in executor["secretAsEnv"] for one in part["keyToEnv"]]
        assert not [name for name in variables if name.startswith("AWS_")]


def resources_of_gpu(executor: dict[str, dict[str, dict[str, object]]]) -> object:
    return executor["container"].get("resources", {}).get("accelerator")


def test_a_hundred_thousand_photographs_have_shares_enough(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = {shards: estimate_size(build_prediction(shards).documents).end for shards in (1, SHARES)}
    assert sizes[1] < sizes[SHARES] < MOST / 2
    monkeypatch.setattr("backdrop.pipelines.size.MOST", sizes[1])
    with pytest.raises(ConfigError, match=r"2 shares are too many: a run grows to .*Use fewer --shards"):
        build_prediction(2)


@pytest.mark.thorough
def test_a_hundred_shares_are_too_many() -> None:
    with pytest.raises(ConfigError, match=r"100 shares are too many: a run grows to .*Use fewer --shards"):
        build_prediction(100)


def test_the_same_graph_gives_the_same_bytes_and_no_ensembles() -> None:
    assert build_prediction(3).dump() == build_prediction(3).dump()
    assert build_prediction(3).version != build_prediction(4).version
    assert build_prediction(3).name != build(find_ensemble("tiny"), [0]).name
