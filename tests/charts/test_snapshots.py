"""What is rendered changes only when somebody means it to: `make generate` writes the snapshots anew."""

from pathlib import Path

import pytest
import yaml

from tests.charts.rendering import CHART
from tests.charts.snapshots import snapshots, stale, write

pytestmark = pytest.mark.e2e


def test_snapshots_are_up_to_date() -> None:
    assert stale() == []


def test_every_template_has_a_snapshot() -> None:
    folder = CHART / "templates"
    templates = {str(path.relative_to(folder)).replace("/", "-") for path in folder.rglob("*.yaml")}
    assert {path.name for path in snapshots()} == templates


def test_a_template_holds_one_kind_of_object_and_is_named_for_it() -> None:
    for path, text in snapshots().items():
        kinds = {document["kind"] for document in yaml.safe_load_all(text)}
        stem = path.stem.removeprefix("tests-").partition("-")[0]
        if stem == "rbac":
            assert kinds <= {"Role", "RoleBinding", "ClusterRole", "ClusterRoleBinding"}
        elif stem != "extraobjects":
            (kind,) = kinds
            assert stem == {"PersistentVolumeClaim": "pvc"}.get(kind, kind.lower())


def test_what_is_missing_changed_or_too_much_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.charts.snapshots.FOLDER", tmp_path)
    write()
    assert stale() == []
    (tmp_path / "full" / "configmap-files.yaml").unlink()
    (tmp_path / "full" / "deployment.yaml").write_text("changed")
    (tmp_path / "full" / "nobody-renders-this.yaml").touch()
    assert stale() == ["full/configmap-files.yaml", "full/deployment.yaml", "full/nobody-renders-this.yaml"]
    write()
    assert stale() == []
