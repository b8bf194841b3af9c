"""An upgrade from the chart at commit dd7494c keeps every name, and changes nothing that Kubernetes can't change.

dd7494c.yaml has that chart's values, and what it rendered, as `fixed` sees it.
"""

from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.charts.rendering import CHART, ROOT, Manifest, manifests

pytestmark = pytest.mark.e2e
BEFORE = yaml.safe_load((Path(__file__).parent / "dd7494c.yaml").read_text())
# A claim can grow, but neither move nor change its class.
IMMUTABLE = {
    "Deployment": ("selector",),
    "Service": ("selector", "ports", "clusterIP"),
    "PersistentVolumeClaim": ("accessModes", "storageClassName", "resources", "volumeMode", "selector"),
    "NetworkPolicy": ("podSelector",),
}


def fixed(objects: list[Manifest]) -> dict[str, Any]:
    """By kind and name, what an upgrade can't change, or what other objects find one by."""
    return {f"{m['kind']} {m['metadata']['name']}": _fixed(m) for m in objects}


def _fixed(manifest: Manifest) -> dict[str, Any]:
    spec = manifest.get("spec", {})
    kept = {key: spec[key] for key in IMMUTABLE.get(manifest["kind"], ()) if key in spec}
    kept |= {key: manifest[key] for key in ("roleRef", "subjects") if key in manifest}
    if manifest["kind"] == "Deployment":
        pod = spec["template"]["spec"]
        kept["account"] = pod["serviceAccountName"]
        kept["claims"] = [v["persistentVolumeClaim"] for v in pod["volumes"] if "persistentVolumeClaim" in v]
    return kept


@pytest.mark.parametrize("case", BEFORE["objects"])
def test_an_upgrade_keeps_names_and_what_cannot_change(case: str) -> None:
    before, after = BEFORE["objects"][case], fixed(manifests(case))
    assert {key: after.get(key) for key in before} == before


def test_a_value_that_is_gone_is_in_the_change_log() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    gone = [key for key in BEFORE["values"] if not has(values, key)]
    log = (ROOT / "CHANGELOG.md").read_text()
    assert gone
    assert [key for key in gone if f"`{key}`" not in log] == []


def has(values: Any, path: str) -> bool:
    """Whether there is such a value; a label's name has dots of its own."""
    if not isinstance(values, dict):
        return False
    return any(path == key or (path.startswith(f"{key}.") and has(values[key], path[len(key) + 1 :])) for key in values)
