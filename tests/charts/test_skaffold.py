"""skaffold.yaml is of skaffold's own form, and what it names is there."""

import json
import os
import re
from pathlib import Path

import jsonschema
import pytest
import yaml

from backdrop.components.image import CPU_IMAGE, IMAGE
from tests.charts.rendering import ROOT, rendered

SCHEMAS = os.environ.get("BACKDROP_SCHEMAS")
CONFIG = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
ARTIFACTS = CONFIG["build"]["artifacts"]
(RELEASE,) = CONFIG["deploy"]["helm"]["releases"]


@pytest.mark.skipif(not SCHEMAS, reason="BACKDROP_SCHEMAS names no folder with skaffold's schema")
def test_form() -> None:
    schema = json.loads(Path(SCHEMAS or "", "skaffold-v4beta13.json").read_text())
    validator = jsonschema.Draft7Validator(schema)
    validator.validate(CONFIG)
    assert not validator.is_valid({**CONFIG, "biuld": {}})


def test_what_it_names_is_there() -> None:
    assert [one["image"] for one in ARTIFACTS] == [image.rpartition(":")[0] for image in (IMAGE, CPU_IMAGE)]
    targets = re.findall(r"^FROM \S+ AS (\S+)", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert {one["docker"]["target"] for one in ARTIFACTS} == {"cuda", "cpu"} <= set(targets)
    assert (ROOT / RELEASE["chartPath"] / "Chart.yaml").is_file()
    patches = [patch for profile in CONFIG["profiles"] for patch in profile.get("patches", [])]
    assert [patch["path"] for patch in patches] == ["/deploy/helm/releases/0/valuesFiles"]
    assert all((ROOT / file).is_file() for patch in patches for file in patch["value"])


@pytest.mark.e2e
@pytest.mark.parametrize("digest", ["", "sha256:" + "0" * 64])
def test_the_built_image_is_installed(digest: str) -> None:
    built = {"REPO": "registry.example/team/backdrop", "TAG": "9f2c", "DIGEST": digest}
    built |= {"REPO2": "registry.example/team/backdrop-cpu", "TAG2": "8e1b", "DIGEST2": digest}
    values = [
        f"{key}={built[template.removeprefix('{{.IMAGE_').removesuffix('}}')]}"
        for key, template in RELEASE["setValueTemplates"].items()
    ]
    wanted = f"registry.example/team/backdrop-cpu{f'@{digest}' if digest else ':8e1b'}"
    assert f'image: "{wanted}"' in rendered("laptop", *(part for value in values for part in ("--set", value)))


@pytest.mark.e2e
def test_the_forwarded_service_is_there() -> None:
    (forward,) = CONFIG["portForward"]
    assert f"name: {forward['resourceName']}\n" in rendered("laptop", release=RELEASE["name"])
