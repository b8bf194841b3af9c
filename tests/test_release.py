"""A release is of one version and of what is committed; and the workflows ask for no more than they need."""

import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from backdrop import __version__

ROOT = Path(__file__).parents[1]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
NOBODY = ("-c", "user.name=nobody", "-c", "user.email=nobody@example.com")


@pytest.fixture
def release(tmp_path: Path) -> Callable[..., str]:
    """A repository with a change log and one commit; what `.ci/release` refuses there."""
    (tmp_path / ".ci").mkdir()
    shutil.copy(ROOT / ".ci" / "release", tmp_path / ".ci")
    git(tmp_path, "init", "--quiet")

    def call(log: str, tag: str = "", stray: str = "") -> str:
        (tmp_path / "CHANGELOG.md").write_text(log)
        git(tmp_path, "add", ".")
        git(tmp_path, *NOBODY, "commit", "--quiet", "--message", "all")
        if tag:
            git(tmp_path, "tag", tag)
        if stray:
            (tmp_path / stray).touch()
        done = subprocess.run(
            [tmp_path / ".ci" / "release"],
            env={"PATH": "/usr/bin:/bin", "VERSION": "1.2.3", "BACKDROP_IMAGE": "none"},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 2
        assert not (tmp_path / "dist").exists()
        return done.stderr

    return call


def git(folder: Path, *words: str) -> None:
    subprocess.run(["git", "-C", folder, *words], check=True)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"log": "## [1.2.3] - 2026-01-02\n", "stray": "new.py"}, "There are changes that are not committed"),
        ({"log": "## [1.2.2] - 2026-01-02\n"}, "CHANGELOG.md has no section [1.2.3]"),
        ({"log": "## [1.2.3] - 2026-01-02\n", "tag": "v1.2.4"}, "The commit is tagged v1.2.4, but"),
        ({"log": "## [1.2.3] - unreleased\n", "tag": "v1.2.3"}, "CHANGELOG.md says that 1.2.3 is unreleased"),
    ],
)
def test_refusals(release: Callable[..., str], given: dict[str, str], message: str) -> None:
    assert release(**given).startswith(f"error: {message}")


def test_what_is_pushed_is_signed_by_its_digest(tmp_path: Path) -> None:
    """With programs that only say what docker and helm say."""
    digests = {"docker": "a" * 64, "helm": "b" * 64}
    for name in ("docker", "helm", "cosign"):
        says = f"echo '1.2.3: digest: sha256:{digests.get(name)} size: 3' {'>&2' if name == 'helm' else ''}"
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name} $*" >> {tmp_path}/calls\n{says}\n')
        (tmp_path / name).chmod(0o755)
    image, cpu = (f"ghcr.io/backdrop-ml/{name}" for name in ("backdrop", "backdrop-cpu"))
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HELM": "helm", "VERSION": "1.2.3"}
    env |= {"BACKDROP_IMAGE": f"{image}:1.2.3", "BACKDROP_CPU_IMAGE": f"{cpu}:1.2.3"}
    subprocess.run([ROOT / ".ci" / "publish"], env=env, check=True, capture_output=True)
    assert (tmp_path / "calls").read_text().splitlines() == [
        f"docker push {image}:1.2.3",
        f"cosign sign --yes {image}@sha256:{digests['docker']}",
        f"docker push {cpu}:1.2.3",
        f"cosign sign --yes {cpu}@sha256:{digests['docker']}",
        "helm push dist/backdrop-1.2.3.tgz oci://ghcr.io/backdrop-ml/charts",
        f"cosign sign --yes ghcr.io/backdrop-ml/charts/backdrop@sha256:{digests['helm']}",
    ]


def test_a_push_that_fails_signs_nothing(tmp_path: Path) -> None:
    for name, code in (("docker", 1), ("helm", 0), ("cosign", 0)):
        (tmp_path / name).write_text(f'#!/bin/sh\necho "{name}" >> {tmp_path}/calls\nexit {code}\n')
        (tmp_path / name).chmod(0o755)
    env = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HELM": "helm", "BACKDROP_IMAGE": "a.example/b:1", "VERSION": "1"}
    env["BACKDROP_CPU_IMAGE"] = "a.example/c:1"
    assert subprocess.run([ROOT / ".ci" / "publish"], env=env, capture_output=True).returncode != 0
    assert (tmp_path / "calls").read_text().splitlines() == ["docker"]


def test_make_names_the_image_as_the_components_do(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("BACKDROP_IMAGE", "BACKDROP_CPU_IMAGE"):
        monkeypatch.setenv(name, "")
    shown = subprocess.run(["make", "-n", "image"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    targets = dict(re.findall(r"--target (\S+) --tag (\S+)", shown))
    assert targets == {
        "cuda": f"ghcr.io/backdrop-ml/backdrop:{__version__}",
        "cpu": f"ghcr.io/backdrop-ml/backdrop-cpu:{__version__}",
    }
    assert f"VERSION={__version__}" in shown


def test_hooks_are_the_checks_of_make() -> None:
    check = subprocess.run(["make", "-n", "check"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (local,) = yaml.safe_load((ROOT / ".pre-commit-config.yaml").read_text())["repos"]
    assert local["repo"] == "local"
    for hook in local["hooks"]:
        tool, *words = hook["entry"].split()
        assert tool.startswith(".venv/bin/")
        assert f"{tool} {words[0]}" in check


def test_the_citation_is_of_this_version() -> None:
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text())
    assert citation["version"] == __version__
    assert citation["license"] == "Apache-2.0"
    assert citation["cff-version"] == "1.2.0"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_workflows(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    assert workflow["permissions"] in ({}, {"contents": "read"})
    steps = [step for job in workflow["jobs"].values() for step in job["steps"]]
    for step in steps:
        assert re.search(r"@v\d+\.\d+\.\d+$", step.get("uses", "@v0.0.0"))
        assert "${{" not in step.get("run", ""), "what others may name must not become a shell's words"
    assert any("make release" in step.get("run", "") or ".ci/run" in step.get("run", "") for step in steps)
