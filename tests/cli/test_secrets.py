"""No command shows a secret: neither credentials in an address nor what the environment holds, whatever goes wrong."""

import random
import string
import sys
from pathlib import Path

import pytest

from backdrop.cli.app import main
from backdrop.common import s3_client
from backdrop.tracking import client

SCHEMES = ("http://", "https://", "s3://", "postgresql://", "ftp://", "")
ODD = ["", *"/?#@:[]%&=+!$;, '\"\\"]
A, DATA, PLAN, YAML = "ADDRESS", "DATA", "PLAN", "params.yaml"
# What each command may be given as an address; nobody listens there.
COMMANDS = [
    ["check", A],
    ["import", A, A],
    ["split", A, "--out", "plan.csv"],
    ["split", DATA, "--out", "plan.csv", "--extend", A],
    ["train", A, "--plan", A, "--recipe", "tiny", "--fold", "0", "--out", A],
    ["train", DATA, "--plan", PLAN, "--recipe", A, "--fold", "0", "--out", "m"],
    ["train", DATA, "--plan", PLAN, "--recipe", "tiny", "--fold", "0", "--out", "m", "--pseudo", A],
    [
        "train",
        DATA,
        "--plan",
        PLAN,
        "--recipe",
        "linknet34",
        "--fold",
        "0",
        "--out",
        "m",
        "--set",
        f"pretrained.address={A}",
    ],
    ["tune", DATA, "--plan", PLAN, "--recipe", "tiny", "--out", A],
    ["tune", DATA, "--plan", PLAN, "--recipe", "tiny", "--out", "search"],
    ["label", DATA, "--plan", PLAN, "--members", A, "--out", "labels"],
    ["evaluate", DATA, "--plan", PLAN, "--members", A, "--out", "report"],
    ["predict", A, "--members", A, "--out", A],
    ["predict", DATA, "--model", A, "--out", "masks"],
    ["register", DATA, "--plan", PLAN, "--members", A, "--report", A, "--ensemble", "tiny", "--name", "cars"],
    ["promote", DATA, "--name", "cars"],
    ["models"],
    ["rollback", "cars"],
    ["reap"],
    ["recipes", "show", A],
    ["ensembles", "show", A],
    ["pipeline", "compile", A],
    ["pipeline", "lint", A],
    ["pipeline", "run", "tiny", "--data", A],
    ["pipeline", "upload", "tiny", "--host", A],
    ["pipeline", "submit", "tiny", "--host", "http://127.0.0.1:9", "--params", YAML],
    ["pipeline", "preflight", "--host", A, "--params", YAML],
    ["pipeline", "status", "--host", A],
    ["pipeline", "heal", A, "--host", A],
    ["pipeline", A],
    [A],
]
ADDRESSES = ("MLFLOW_TRACKING_URI", "KF_PIPELINES_ENDPOINT", "RAY_ADDRESS", "AWS_ENDPOINT_URL")


def words(chance: random.Random) -> list[str]:
    return ["".join(chance.choices(string.ascii_letters + string.digits, k=8)) for _ in range(2)]


def run(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["backdrop", *arguments])
    s3_client.client.cache_clear()
    with pytest.raises(SystemExit):
        main()
    s3_client.client.cache_clear()


def try_all(
    seed: int, data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    chance = random.Random(seed)
    for command in COMMANDS:
        parts = words(chance)
        password = chance.choice(ODD).join(parts)
        address = f"{chance.choice(SCHEMES)}me:{password}@127.0.0.1:9/x"
        secrets = [password, *parts]
        Path(YAML).write_text(f"data: {address!r}\n")
        for name in ADDRESSES:
            monkeypatch.setenv(name, f"{chance.choice(SCHEMES)}me:{password}@127.0.0.1:9/y")
        for name in ("AWS_SECRET_ACCESS_KEY", "KFP_EXISTING_TOKEN", "RAY_AUTH_TOKEN", "MLFLOW_TRACKING_PASSWORD"):
            (word, _) = words(chance)
            secrets.append(word)
            monkeypatch.setenv(name, word)
        given = {A: address, DATA: str(data), PLAN: str(plan)}
        arguments = [given.get(word, word.replace(A, address)) for word in command]
        run(arguments, monkeypatch)
        shown = "".join(capsys.readouterr())
        for secret in secrets:
            assert secret not in shown, (arguments, shown)


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing waits for servers that don't answer."""
    monkeypatch.chdir(tmp_path)
    for name, value in {
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "0",
        "AWS_ACCESS_KEY_ID": "a",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(s3_client, "POLICY", s3_client.RetryPolicy(0, 0, attempts=1))
    monkeypatch.setattr(client, "POLICY", client.RetryPolicy(0, 0, attempts=1))


def test_no_command_shows_a_secret(
    data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try_all(0, data, plan, monkeypatch, capsys)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_no_command_shows_a_secret_of_any_form(
    seed: int, data: Path, plan: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    try_all(seed, data, plan, monkeypatch, capsys)
