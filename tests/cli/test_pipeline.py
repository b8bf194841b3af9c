"""`backdrop pipeline`: its options are frozen, and what it refuses it refuses in one line."""

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from typer.main import get_command

from backdrop.cli.app import main
from backdrop.cli.pipeline import _seen_from, app

PACKAGE = ("--folds", "--set", "--tune", "--ray", "--label", "--retries", "--volume", "--shards")
OPTIONS = {
    "compile": {"ensemble", "-o", "--out", *PACKAGE},
    "lint": {"package"},
    "heal": {"run", "--name", "--host", "--namespace"},
    "preflight": {"--params", "--ray", "--ensemble", "--host", "--namespace"},
    "run": {
        "ensemble",
        "--data",
        "--hours",
        "--name",
        "--work",
        "--objects",
        "--folds",
        "--set",
        "--tune",
        "--promote",
        "--no-promote",
        "--runner",
        "--shards",
        "--params",
    },
    "schedule": {
        "ensemble",
        "--name",
        "--cron",
        "--params",
        "--paused",
        "--remove",
        "--experiment",
        "--service-account",
        "--host",
        "--namespace",
        *PACKAGE,
    },
    "status": {"--name", "--host", "--namespace"},
    "submit": {
        "ensemble",
        "--params",
        "--experiment",
        "--service-account",
        "--host",
        "--namespace",
        *PACKAGE,
    },
    "upload": {"ensemble", "--host", "--namespace", *PACKAGE},
}


def call(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> int:
    monkeypatch.setattr(sys, "argv", ["backdrop", "pipeline", *arguments])
    with pytest.raises(SystemExit) as stopped:
        main()
    return int(stopped.value.code or 0)


def test_no_option_appears_by_accident() -> None:
    commands = get_command(app).commands  # type: ignore[attr-defined]  # it is a group
    options = {
        name: {word for parameter in command.params for word in (*parameter.opts, *parameter.secondary_opts)}
        - {"--help"}
        for name, command in commands.items()
    }
    assert options == OPTIONS


def test_compile(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "deep" / "package.yaml"
    assert call(monkeypatch, "compile", "tiny", "-o", str(out), "--folds", "0,1", "--set", "epochs=2") == 0
    assert capsys.readouterr().out.startswith("backdrop-tiny 0.1.0-")
    assert out.read_text().startswith("# backdrop-tiny 0.1.0-")


def test_hours_are_only_for_a_proposal(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    assert call(monkeypatch, "run", "tiny", "--data", "photos", "--hours", "2") == 2
    assert capsys.readouterr().err == "error: --hours is of no use without auto. Leave it out.\n"
    assert call(monkeypatch, "compile", "auto") == 2
    remedy = "Write a proposal with `backdrop estimate DATA --out auto.yaml`, and name that file"
    assert capsys.readouterr().err == f"error: auto is not an ensemble. {remedy}.\n"


def test_lint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    package = tmp_path / "package.yaml"
    call(monkeypatch, "compile", "tiny", "-o", str(package), "--folds", "0")
    capsys.readouterr()
    assert call(monkeypatch, "lint", str(package)) == 0
    assert capsys.readouterr().out == f"{package}: 0 errors\n"
    graph, settings = yaml.safe_load_all(package.read_text())
    graph["root"]["inputDefinitions"]["parameters"]["data"] = {"parameterType": "STRING", "isOptional": True}
    package.write_text(yaml.safe_dump_all([graph, settings]))
    assert call(monkeypatch, "lint", str(package)) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first == "error: parameter data may be None, which no run can pass: give it a default"
    assert last == f"{package}: 1 error"


@pytest.mark.parametrize("text", ["a: [", "", "- 1", "name: tiny", "root: {}\n---\n1"])
def test_what_is_no_package_is_refused(
    text: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    package = tmp_path / "package.yaml"
    package.write_text(text)
    assert call(monkeypatch, "lint", str(package)) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {package} isn't ")
    assert line.endswith("Compile it with `backdrop pipeline compile`.")


USELESS = "--params and --shards are of no use without prediction"
MISSING = "The photographs, the model and the folders are missing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["compile", "tinny"], "error: There is no ensemble tinny. Did you mean tiny?"),
        (["compile", "tiny", "--folds", "0,x"], "error: --folds 0,x is not a list of folds. Write it as --folds 0,1."),
        (["compile", "tiny", "--folds", "9"], "error: Ensemble tiny has no fold 9. Its folds are 0 to 2."),
        (["run", "tiny", "--data", "/no/such"], "error: /no/such is not a folder. Check the path."),
        (["run", "tiny"], "error: The dataset is missing. Give --data."),
        (["run", "tiny", "--data", "d", "--shards", "2"], f"error: {USELESS}. Leave them out."),
        (["run", "prediction", "--shards", "2"], f"error: {MISSING}. Give --params."),
        (
            ["run", "prediction", "--params", "p.yaml"],
            "error: The number of shares is missing. Give --shards, such as the number of your GPUs.",
        ),
    ],
)
def test_refusals(
    arguments: list[str], message: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, *arguments) == 2
    assert capsys.readouterr().err == f"{message}\n"


def test_paths_of_a_prediction_are_seen_from_its_parameters(tmp_path: Path) -> None:
    (tmp_path / "wall.png").touch()
    given = {"images": "in", "out": "/out", "work": "s3://bucket/work", "model": "models:/cars@champion"}
    found = {**given, "images": str(tmp_path / "in")}
    for background, seen in (("wall.png", str(tmp_path / "wall.png")), ("red", "red"), ("", "")):
        values = {**given, "background": background}
        assert _seen_from(tmp_path / "params.yaml", values) == {**found, "background": seen}
    assert _seen_from(tmp_path / "params.yaml", given) == found


def test_without_docker_it_says_so(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """In a process of its own, because docker's library leaves a socket open where it finds no Docker."""
    monkeypatch.setenv("DOCKER_HOST", f"unix://{tmp_path}/no.sock")
    work = tmp_path / "work"
    command = [
        sys.executable,
        "-m",
        "backdrop",
        "pipeline",
        "run",
        "tiny",
        "--data",
        str(tmp_path),
        "--work",
        str(work),
    ]
    done = subprocess.run([*command, "--runner", "docker"], capture_output=True, text=True)
    assert done.returncode == 2
    said = done.stderr.splitlines()[-1]  # after a heartbeat, on a busy machine
    assert re.fullmatch(r"error: Docker doesn't answer \(.*\)\. Start it .*", said)
    assert not work.exists()


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.common.errors import ConfigError

    monkeypatch.setattr(sys, "argv", ["backdrop", "--debug", "pipeline", "compile", "tinny"])
    with pytest.raises(ConfigError):
        main()


def test_help_imports_nothing_heavy() -> None:
    heavy = "kfp", "kubernetes", "mlflow", "torch", "cv2", "boto3", "pydantic"
    code = f"import sys, backdrop.cli.app; print([m for m in {heavy} if m in sys.modules])"
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert process.stdout.strip() == "[]"
