"""Runs a command in a child of this process, with broken files, odd arguments and an odd environment.

A fork has all libraries imported already, can be killed when it hangs, and takes its environment and caches with it.
"""

import json
import os
import random
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import ThreadingHTTPServer
from pathlib import Path
from typing import Any

import yaml

from backdrop.cli import app
from backdrop.tracking import DEFAULTS
from tests.fakes.http import JsonHandler, running

SECRET = "hunter2xyzzy"
STORE = "mlflow.db"
HANGS_S = 300.0
MAX_LINES = 5
MEMORY = 12 * 2**30  # bytes of address space, of which torch alone maps some

# Each command, as it works; words that name files of the workspace are what is broken.
COMMANDS: dict[str, str] = {
    "sample": "sample out --objects 1 --views 1 --size 64x64",
    "import": "import source out --pattern (?P<object>.+)_(?P<view>.+)",
    "import coco": "import source out --masks coco.json --dry-run",
    "check": "check data --ensemble ensemble.yaml",
    "split": "split data --out new.csv --folds 2 --extend plan.csv",
    "split holdout": "split data --out new.csv --folds 2 --holdout-from plan.csv",
    "estimate": "estimate data --ensemble ensemble.yaml",
    "estimate auto": "estimate data --out new.yaml",
    "train": "train data --plan plan.csv --recipe recipe.yaml --fold 0 --out out --set-file set.yaml --set epochs=1",
    "train pseudo": "train data --plan plan.csv --recipe recipe.yaml --fold 0 --out out --pseudo labels",
    "tune": "tune data --plan plan.csv --recipe recipe.yaml --out out --trials 2 --space space.yaml --repeats 0",
    "tune cluster": "tune data --plan plan.csv --recipe recipe.yaml --out s3://photos/out --cluster cluster.yaml",
    "distill": "distill data --plan plan.csv --model models:/cars@champion --out out --set epochs=1",
    "label": "label data --plan plan.csv --members member-0 member-1 --out out",
    "predict": "predict data/test --members member-0 member-1 --out out --ensemble ensemble.yaml",
    "predict submission": "predict data/test --members member-0 --out out --format submission"
    " --sample-submission s.csv",
    "predict shard": "predict data/test --members member-0 --out out --shard 1/2",
    "predict student": "predict data/test --model models:/cars@champion --student --out out",
    "merge": "merge share --out merged",
    "predict model": "predict data/test --model models:/cars@champion --out out",
    "evaluate": "evaluate data --plan plan.csv --members member-0 member-1 --out out --ensemble ensemble.yaml",
    "review": "review data --plan plan.csv --members member-0 member-1 --out out --ensemble ensemble.yaml",
    "drift": "drift --reference models:/cars@champion --current data/test --out out",
    "next": "next data --model models:/cars@champion --out out",
    "evaluate baseline": "evaluate data --plan plan.csv --members member-0 --out out --baseline other=data/train_masks",
    "register": "register data --plan plan.csv --members member-0 member-1 --report report --ensemble ensemble.yaml"
    " --name cars",
    "promote": "promote data --name cars",
    "promote override": "promote cars --version 1 --override --reason glass",
    "rollback": "rollback cars --to 1 --reason halos",
    "hold": "hold cars --reason campaign",
    "release": "release cars",
    "history": "history cars --json --verify",
    "verify": "verify cars",
    "models": "models --json",
    "serve": "serve cars --port 0 --tokens tokens.txt",
    "reap": "reap --idle-minutes 1",
    "recipes ls": "recipes ls",
    "recipes show": "recipes show recipe.yaml",
    "recipes cp": "recipes cp recipe.yaml mine.yaml",
    "recipes validate": "recipes validate recipe.yaml --set epochs=2",
    "recipes describe": "recipes describe recipe.yaml --json",
    "ensembles ls": "ensembles ls",
    "ensembles show": "ensembles show ensemble.yaml",
    "ensembles cp": "ensembles cp ensemble.yaml mine.yaml",
    "ensembles validate": "ensembles validate ensemble.yaml",
    "pipeline compile": "pipeline compile ensemble.yaml --out package.out --set epochs=1 --tune fast --ray",
    "pipeline lint": "pipeline lint package.yaml",
    "pipeline run": "pipeline run ensemble.yaml --data data --work out",
    "pipeline run auto": "pipeline run auto --data data --work out",
    "pipeline run docker": "pipeline run ensemble.yaml --data data --work out --runner docker",
    "pipeline run prediction": "pipeline run prediction --shards 1 --params params.yaml --work out",
    "pipeline upload": "pipeline upload ensemble.yaml --host http://127.0.0.1:9",
    "pipeline submit": "pipeline submit ensemble.yaml --params params.yaml",
    "pipeline schedule": "pipeline schedule ensemble.yaml --name weekly --cron 0_0_3_*_*_0 --params params.yaml",
    "pipeline status": "pipeline status",
    "pipeline heal": "pipeline heal 4cc9b90d",
    "pipeline preflight": "pipeline preflight --params params.yaml --ray",
}
# Those that need MLflow's store, Kubeflow's client or Ray, which take seconds to import.
REGISTRY = (
    "register",
    "promote",
    "promote override",
    "rollback",
    "hold",
    "release",
    "history",
    "verify",
    "models",
    "reap",
)
HEAVY = ("predict model", "predict student", "distill", "drift", "next", *REGISTRY, "serve", "tune", "tune cluster")
LIGHT = tuple(name for name in COMMANDS if name not in HEAVY and not name.startswith("pipeline"))
# What takes long when it works is always given one of these files broken beyond use.
SLOW = {
    "estimate": "data",
    "estimate auto": "data",
    "serve": "tokens.txt",
    "tune": "plan.csv",
    "pipeline run": "data",
    "pipeline run auto": "data",
    "pipeline run docker": "data",
}

LONG = "x" * 5000


def words(text: str) -> tuple[str, ...]:
    return tuple(text.split())


WORDS = (
    *("", " ", "9" * 30, "a\nb", "\udcff", "\x1b[31m", LONG, f"http://user:{SECRET}@127.0.0.1:9"),
    *words("-1 0 1.5 nan 1e999 - -- .. ~ * %s ü [ { {key} 0,1 a=b null tiny ::1 $HOME pipe device"),
    *words("s3:// s3://bucket s3://photos/none http://127.0.0.1:9/x runs:/none/member models:/ models:/none@champion"),
    *words("data plan.csv recipe.yaml member-0"),
)
NUMBERS = (0, -1, 1, 2.5, 1e308, float("nan"), float("inf"), 2**31, 2**63, 2**64, 10**40)
VALUES: tuple[Any, ...] = (*NUMBERS, None, True, "", LONG, "\0", "../../x", "ü", "-", [], {}, [[]], {"": None}, {1: 2})

NUMERIC = ("", "0", "-1", "1", "abc", "1.5", "nan", "9" * 30)
FILES = ("", "none", "plan.csv", "data", "recipe.yaml", "pipe", "device", "dangling", "\udcff", LONG)
SECRETS = ("", SECRET, f" {SECRET}", *(f"{SECRET}{end}" for end in ("\n", "\r\nX: y", " ", "ü", "\udcff", "\x7f")))
SWITCHES = ("", "0", "1", "true", "false", "off", "maybe")
NAMES = ("", "x", "a b", "\n", "ü", "../x", LONG, "\udcff", "0", "eu central", "%00", "'", "`", "{}")
ADDRESSES = (
    *("", f"http://user:{SECRET}@127.0.0.1:9", f"http://{SECRET}\n@127.0.0.1:9", f"http://a:{SECRET}@", "http://ü:9"),
    *words("x 127.0.0.1:9 http://127.0.0.1:9 http:// http://127.0.0.1:99999 http://[ http://nobody.invalid SERVER"),
    *words("sqlite:///plan.csv sqlite:// sqlite:///x/y/z.db postgresql://x:y@127.0.0.1:9/z databricks ./mlruns"),
    *words("ftp://x file:///x s3://x ray://127.0.0.1:10001 auto local 127.0.0.1:6379 unix:///none"),
)
# Every variable that we read, and those of our libraries that people set.
VARIABLES = {
    name: values
    for names, values in {
        "BACKDROP_TRACKING MLFLOW_TRACKING_INSECURE_TLS NO_COLOR FORCE_COLOR": SWITCHES,
        "BACKDROP_CACHE HOME TMPDIR KUBECONFIG KF_PIPELINES_SA_TOKEN_PATH RAY_AUTH_TOKEN_PATH": FILES,
        "AWS_CONFIG_FILE AWS_SHARED_CREDENTIALS_FILE AWS_CA_BUNDLE AWS_WEB_IDENTITY_TOKEN_FILE": FILES,
        "REQUESTS_CA_BUNDLE SSL_CERT_FILE CURL_CA_BUNDLE DOCKER_CERT_PATH DOCKER_CONFIG NETRC": FILES,
        "MLFLOW_TRACKING_SERVER_CERT_PATH MPLCONFIGDIR XDG_CACHE_HOME": FILES,
        "BACKDROP_MAX_PIXELS WORLD_SIZE RANK LOCAL_RANK LOCAL_WORLD_SIZE MASTER_PORT OMP_NUM_THREADS": NUMERIC,
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES MLFLOW_HTTP_REQUEST_TIMEOUT MLFLOW_HTTP_REQUEST_BACKOFF_FACTOR": NUMERIC,
        "AWS_MAX_ATTEMPTS AWS_METADATA_SERVICE_TIMEOUT CUDA_VISIBLE_DEVICES COLUMNS LINES": NUMERIC,
        "MLFLOW_TRACKING_URI MLFLOW_REGISTRY_URI AWS_ENDPOINT_URL AWS_ENDPOINT_URL_S3 RAY_ADDRESS": ADDRESSES,
        "KF_PIPELINES_ENDPOINT KF_PIPELINES_UI_ENDPOINT DOCKER_HOST MASTER_ADDR": ADDRESSES,
        "http_proxy HTTP_PROXY https_proxy all_proxy": ADDRESSES,
        "MLFLOW_TRACKING_USERNAME MLFLOW_TRACKING_PASSWORD MLFLOW_TRACKING_TOKEN KFP_EXISTING_TOKEN": SECRETS,
        "AWS_ACCESS_KEY_ID AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN RAY_AUTH_TOKEN BACKDROP_SERVE_TOKEN": SECRETS,
        "MLFLOW_EXPERIMENT_NAME MLFLOW_EXPERIMENT_ID MLFLOW_RUN_ID MLFLOW_TRACKING_AUTH KFP_NAMESPACE": NAMES,
        "AWS_PROFILE AWS_DEFAULT_REGION AWS_REGION AWS_ROLE_ARN AWS_RETRY_MODE BACKDROP_IMAGE": NAMES,
        "RAY_AUTH_MODE LANG LC_ALL TERM TZ no_proxy MPLBACKEND": NAMES,
        "PYTHONIOENCODING": ("ascii", "latin-1", "utf-16"),
    }.items()
    for name in names.split()
}


@dataclass(frozen=True)
class Attempt:
    """A command, what was done to its surroundings, and what came of it."""

    arguments: tuple[str, ...]
    changes: tuple[str, ...]
    code: int | None
    out: str
    err: str
    seconds: float

    @property
    def faults(self) -> list[str]:
        """What no command may do, whatever it is given."""
        lines = self.err.splitlines()
        faults = {
            "hangs": self.code is None,
            f"exit code {self.code}": self.code not in (None, 0, 1, 2, 3),
            "traceback": "Traceback (most recent call last)" in self.err + self.out,
            "bug": app.BUG in self.err + self.out,
            f"{len(lines)} lines": len(lines) > MAX_LINES,
            "secret": SECRET in self.err + self.out,
        }
        return [name for name, is_so in faults.items() if is_so]

    def __str__(self) -> str:
        shown = " ".join(word if len(word) < 100 else f"{word[:100]}…" for word in self.arguments)
        return (
            f"backdrop {shown}\n  {'; '.join(self.changes)}\n  {self.code} in {self.seconds:.1f} s\n{self.err[-4000:]}"
        )


class Garbage(JsonHandler):
    """Answers everything with something else."""

    def handle_any(self) -> None:
        self.body()
        answers = [(200, b"<html>"), (200, {}), (200, []), (404, {}), (403, b"no"), (302, b"\0")]
        status, answer = random.Random(self.path).choice(answers)
        self.reply(status, answer)

    do_GET = do_POST = do_PUT = do_HEAD = do_DELETE = do_PATCH = handle_any  # noqa: N815  # http.server's names


@contextmanager
def garbage_server() -> Iterator[str]:
    """The address of a server that answers nonsense."""
    with running(ThreadingHTTPServer(("127.0.0.1", 0), Garbage)) as server:
        yield f"http://127.0.0.1:{server.server_address[1]}"


def attack(workspace: Path, scratch: Path, server: str, seed: int, command: str, apart: bool = False) -> Attempt:
    """Runs one command on a copy of the workspace, with one to three things broken.

    Args:
        workspace: has all files that `COMMANDS` name.
        scratch: where the copy is made.
        server: the address of a server that answers nonsense.
        seed: of all that is random.
        command: a key of `COMMANDS`.
        apart: in a Python of its own, which imports all libraries in the changed environment: only that is broken then.
    """
    chance = random.Random(f"{seed} {command}")
    folder = scratch / f"{seed}-{command.replace(' ', '-')}"
    shutil.copytree(workspace, folder, symlinks=True)
    os.mkfifo(folder / "pipe")
    (folder / "dangling").symlink_to("nowhere")
    (folder / "device").symlink_to("/dev/zero")  # a link, for root could replace the device itself
    words = [word.replace("0_0_3_*_*_0", "0 0 3 * * 0") for word in COMMANDS[command].split(" ")]
    environment, changes = {}, []
    if command in SLOW:
        changes.append(_break(folder / SLOW[command], chance, FATAL))
    for _ in range(chance.choice([1, 1, 1, 2, 3])):
        target = "variable" if apart else chance.choice(["file", "file", "variable", "word"])
        files = [path for word in words for path in _files(folder, word)] if target == "file" else []
        if files:
            changes.append(_break(chance.choice(files), chance, MUTATIONS))
        elif target == "word" and len(words) > 2:
            place = chance.randrange(1, len(words))
            before, words[place] = words[place], chance.choice(WORDS)
            changes.append(f"{before} -> {words[place][:50]!r}")
        else:
            name = chance.choice(sorted(VARIABLES))
            value = chance.choice(VARIABLES[name]).replace("SERVER", server)
            environment[name] = value
            changes.append(f"{name}={value[:60]!r}")
    attempt = run(words, environment, folder, tuple(changes), apart)
    shutil.rmtree(folder, ignore_errors=True)
    return attempt


def run(
    words: list[str], environment: dict[str, str], folder: Path, changes: tuple[str, ...] = (), apart: bool = False
) -> Attempt:
    """Runs `backdrop` in a fork, in a folder, with these variables besides a few usual ones."""
    start = time.monotonic()
    with (folder / "stdout").open("wb") as out, (folder / "stderr").open("wb") as err:
        child = os.fork()
        if child == 0:
            _be_backdrop(words, environment, folder, (out.fileno(), err.fileno()), apart)
    code = _wait(child, start)
    printed = ((folder / name).read_text(errors="backslashreplace") for name in ("stdout", "stderr"))
    return Attempt(tuple(words), changes, code, *printed, time.monotonic() - start)


def _be_backdrop(
    words: list[str], environment: dict[str, str], folder: Path, streams: tuple[int, int], apart: bool
) -> None:
    code = 99
    try:
        os.setsid()
        resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))  # no command may take all memory of the machine
        os.chdir(folder)
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(streams[0], 1)
        os.dup2(streams[1], 2)
        sys.stdout, sys.stderr = (open(fd, "w", closefd=False) for fd in (1, 2))  # noqa: SIM115
        kept = {name: os.environ[name] for name in ("PATH", "PYTHONPATH", "OMP_NUM_THREADS") if name in os.environ}
        keys = {"AWS_ACCESS_KEY_ID": "testing", "AWS_SECRET_ACCESS_KEY": "testing", "AWS_DEFAULT_REGION": "us-east-1"}
        usual = {"HOME": str(folder), "AWS_ENDPOINT_URL": "http://127.0.0.1:9", "KUBECONFIG": str(folder / "none")}
        os.environ.clear()
        os.environ.update({**kept, **keys, **usual, "BACKDROP_CACHE": str(folder / "cache")})
        if not (folder / STORE).exists():
            os.environ["BACKDROP_TRACKING"] = "off"
        os.environ.update(environment if apart else {**DEFAULTS, **environment})
        if apart:
            os.execv(sys.executable, [sys.executable, "-m", "backdrop", *words])
        sys.argv = ["backdrop", *words]
        warnings.resetwarnings()
        for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
            warnings.simplefilter("ignore", category)  # as Python starts
        app.main()
        code = 0
    except SystemExit as exit_:
        code = exit_.code if isinstance(exit_.code, int) else 1 if exit_.code else 0
    except BaseException:
        traceback.print_exc()
    finally:
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        os._exit(code)


def _wait(child: int, start: float) -> int | None:
    while time.monotonic() - start < HANGS_S:
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.01)
    os.killpg(child, signal.SIGKILL)
    os.waitpid(child, 0)
    return None


def _files(folder: Path, word: str) -> list[Path]:
    """The files that a word names, if it names some in the folder: nothing else may ever be broken."""
    path = folder / word
    inside = folder in path.parents and ".." not in path.parts
    # pathlib's own fail at a long name.
    if not inside or path.name == "out" or os.path.islink(path) or not os.path.exists(path):  # noqa: PTH110, PTH114
        return []
    return [path, *(inner for inner in path.rglob("*") if not inner.is_symlink())] if path.is_dir() else [path] * 3


def _break(path: Path, chance: random.Random, mutations: "Mutations") -> str:
    """Breaks a file in one of the ways; says which."""
    name = chance.choice(sorted(mutations))
    data = path.read_bytes() if path.is_file() else b""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
    changed = mutations[name](data, chance)
    if changed is not None:
        path.write_bytes(changed)
    elif name == "folder":
        path.mkdir()
    elif name == "pipe":
        os.mkfifo(path)
    elif name == "dangling":
        path.symlink_to("nowhere")
    elif name == "circle":
        path.symlink_to(path)
    elif name == "device":
        path.symlink_to("/dev/zero")
    return f"{path.name}: {name}"


def _flip(data: bytes, chance: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(chance.choice([1, 10])):
        if changed:
            changed[chance.randrange(len(changed))] = chance.randrange(256)
    return bytes(changed)


def _line(data: bytes, chance: random.Random) -> bytes:
    lines = data.splitlines(keepends=True) or [b""]
    place = chance.randrange(len(lines))
    return b"".join([*lines[:place], *chance.choice([[lines[place]] * 2, [], [b"\n"], [b"\0\n"]]), *lines[place + 1 :]])


def _cell(data: bytes, chance: random.Random) -> bytes:
    lines = data.split(b"\n")
    place = chance.randrange(len(lines))
    cells = lines[place].split(b",")
    cells[chance.randrange(len(cells))] = chance.choice(
        [b"", b"-1", b"nan", b"9" * 40, b"1e999", b"../x", b'"', b"\0", b"\xff", b"x" * 200_000, b"holdout", b"a,b"]
    )
    return b"\n".join([*lines[:place], b",".join(cells), *lines[place + 1 :]])


def _value(data: bytes, chance: random.Random) -> bytes:
    """Another value in a JSON or YAML file, deep inside."""
    try:
        content = yaml.safe_load(data)
    except (yaml.YAMLError, ValueError, RecursionError):
        return _flip(data, chance)
    whole = {"": content}
    holder: Any = whole
    key: Any = ""
    while isinstance(holder[key], dict | list) and holder[key] and chance.random() < 0.9:
        holder = holder[key]
        key = chance.choice(list(holder) if isinstance(holder, dict) else range(len(holder)))
    if isinstance(holder, dict) and chance.random() < 0.2:
        holder[chance.choice(["", "x", 3, None])] = holder.pop(key)
    else:
        holder[key] = chance.choice(VALUES)
    dump: Callable[[Any], str] = json.dumps if data.lstrip().startswith((b"{", b"[")) else yaml.safe_dump
    try:
        return dump(whole.get("", next(iter(whole.values())))).encode()
    except (TypeError, ValueError, yaml.YAMLError):
        return b"{}"


Mutations = dict[str, Callable[[bytes, random.Random], bytes | None]]
MUTATIONS: Mutations = {
    "bytes": lambda _data, chance: chance.randbytes(chance.choice([1, 10, 1000])),
    "half": lambda data, chance: data[: chance.randrange(len(data) + 1)],
    "empty": lambda _data, _chance: b"",
    "flipped": _flip,
    "line": _line,
    "cell": _cell,
    "value": _value,
    "another value": _value,
    "another cell": _cell,
    "utf-16": lambda data, _chance: data.decode("latin-1").encode("utf-16"),
    "utf-16 without its mark": lambda data, _chance: data.decode("latin-1").encode("utf-16-le"),
    "latin-1": lambda data, _chance: data + b"# \xe9\n",
    "mark": lambda data, _chance: b"\xef\xbb\xbf" + data,
    "windows": lambda data, _chance: data.replace(b"\n", b"\r\n"),
    "twice": lambda data, _chance: data + data,
    "deep": lambda _data, _chance: b"[" * 100_000,
    "deep map": lambda _data, _chance: b'{"a":' * 100_000,
    "scalar": lambda _data, chance: chance.choice([b"3", b"null", b'"x"', b"NaN", b"[1, 2]", b"{}", b"- a", b"1: 2"]),
    "folder": lambda _data, _chance: None,
    "pipe": lambda _data, _chance: None,
    "dangling": lambda _data, _chance: None,
    "circle": lambda _data, _chance: None,
    "device": lambda _data, _chance: None,
    "gone": lambda _data, _chance: None,
}
FATAL = {name: MUTATIONS[name] for name in ("empty", "dangling", "circle", "device", "gone", "deep")}
