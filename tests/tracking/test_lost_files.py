"""Versions and evaluations whose files MLflow has lost: what needs them says so, and registering again brings them."""

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from backdrop.common import storage
from backdrop.common.errors import TrackingError
from backdrop.steps.models import models
from backdrop.steps.promote import promote
from backdrop.steps.rollback import rollback
from backdrop.tracking import evaluations
from backdrop.tracking.client import connect
from backdrop.tracking.members import find_member
from backdrop.tracking.registry import champion_plan, find_alias, require_version
from backdrop.tracking.version_files import fetch
from tests.fakes.proxy import expired
from tests.tracking.test_members import KEY, upload
from tests.tracking.test_registry import champion, put
from tests.tracking.workspace import Workspace, server_is_thorough


@pytest.fixture
def name(tmp_path: Path) -> str:
    return f"model-{tmp_path.name}"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:10])


@server_is_thorough
def test_lost_files_of_a_version_are_uploaded_again_by_register(
    tracked: str, workspace: Workspace, name: str, artifacts: Callable[[str], Path], capfd: pytest.CaptureFixture[str]
) -> None:
    data, address = str(workspace.data), f"models:/{name}@challenger"
    made = put(workspace, name, seed=1, dice=0.95)
    version = find_alias(name, "challenger")
    assert version is not None
    weights = artifacts(version.model) / "artifacts/ensemble/members/tiny-0/weights.safetensors"
    for lose in (lambda: truncate(weights), lambda: shutil.rmtree(artifacts(version.model))):
        lose()
        shutil.rmtree(storage.cache_folder() / "ensembles", ignore_errors=True)
        for needs_them in (lambda: fetch(require_version(address)), lambda: promote(data, name)):
            with pytest.raises(TrackingError, match=rf"lost files of models:/{name}/1\b.*`backdrop register`"):
                needs_them()
        capfd.readouterr()
        assert put(workspace, name, seed=1, dice=0.95) == made.model_copy(update={"created": False})
        assert f"Files of models:/{name}/1 were gone from MLflow: uploaded again" in capfd.readouterr().err
        assert weights.is_file()
        fetch(require_version(address))
    assert promote(data, name).outcome == "promoted"


@pytest.mark.parametrize("tracked", ["server"], indirect=True)
def test_a_login_page_in_a_files_place_is_no_lost_file(
    tracked: str, mlflow_server: str, workspace: Workspace, name: str, member: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = put(workspace, name, seed=1, dice=0.95)
    upload(member)
    needs = {
        "weights.safetensors": (lambda: fetch(require_version(f"models:/{name}/1")), lambda: find_member(KEY)),
        "images.csv": (lambda: evaluations.fetch_evaluation(made.run_id),),
        "statistics.csv": (lambda: evaluations.fetch_statistics(made.run_id),),
        "ensemble.yaml": (lambda: evaluations.fetch_ensemble(made.run_id),),
        "index.html": (lambda: promote(str(workspace.data), name),),
        "verdict.json": (lambda: evaluations.find_verdict(made.run_id),),
    }
    for file, acts in needs.items():
        with expired(int(mlflow_server.rpartition(":")[2]), file) as address:
            monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
            for act in acts:
                shutil.rmtree(storage.cache_folder(), ignore_errors=True)
                with pytest.raises(TrackingError, match=rf"{file} of .* didn't arrive.*your login"):
                    act()
        monkeypatch.setenv("MLFLOW_TRACKING_URI", mlflow_server)
        if file == "index.html":
            assert promote(str(workspace.data), name).outcome == "unchanged"


@server_is_thorough
def test_nothing_is_rolled_back_to_a_version_without_files(
    tracked: str, workspace: Workspace, name: str, artifacts: Callable[[str], Path]
) -> None:
    for seed, dice in ((1, 0.93), (2, 0.95)):
        put(workspace, name, seed, dice)
        promote(str(workspace.data), name)
    first = find_alias(name, "champion")
    rollback(name)
    second = find_alias(name, "champion")
    assert first is not None
    assert second is not None
    shutil.rmtree(artifacts(first.model))
    with pytest.raises(TrackingError, match=f"lost files of models:/{name}/2"):
        rollback(name)
    assert champion(name) == 1
    connect().delete_logged_model(first.model)
    with pytest.raises(TrackingError, match=f"lost files of models:/{name}/2"):
        rollback(name)


@server_is_thorough
@pytest.mark.parametrize("lost", ["", "report/index.html"])
def test_an_evaluation_that_mlflow_has_lost_is_logged_again(
    tracked: str, workspace: Workspace, name: str, lost: str, artifacts: Callable[[str], Path]
) -> None:
    first = put(workspace, name, seed=1, dice=0.95)
    folder = artifacts(first.run_id)
    if lost:
        (folder / lost).unlink()
    else:
        truncate(folder / "report/images.csv")
    with pytest.raises(
        TrackingError, match=rf"MLflow has lost .* of evaluation run {first.run_id}.*`backdrop evaluate`"
    ):
        promote(str(workspace.data), name)
    second = put(workspace, name, seed=1, dice=0.95)
    assert (second.version, second.created) == (1, False)
    assert second.run_id != first.run_id
    assert promote(str(workspace.data), name).outcome == "promoted"
    assert champion_plan(f"models:/{name}@champion") is not None


def test_models_are_listed_after_an_evaluation_was_deleted_for_good(
    tracked: str, workspace: Workspace, name: str
) -> None:
    made = put(workspace, name, seed=1, dice=0.95)
    promote(str(workspace.data), name)
    connect().set_model_version_tag(name, "1", "backdrop.evaluation_run", "0" * 32)
    (listed,) = [model for model in models() if model.name == name]
    assert (listed.champion, listed.dice, made.version) == (1, None, 1)
