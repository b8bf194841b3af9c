import errno
import json
import os
import resource
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import IO

import pytest
import typer
from typer.testing import CliRunner

from backdrop.cli import app, inference
from backdrop.config import find_ensemble, shipped
from backdrop.evaluation.records import Spread
from tests.conftest import SMALL

RUN = CliRunner()
# Every command and its parameters: none may appear or vanish by accident.
SURFACE = {
    "sample": {"out", "objects", "views", "size", "seed"},
    "import": {"source", "out", "pattern", "masks", "label", "threshold", "dry_run", "as_json"},
    "check": {"data", "ensemble", "objects", "as_json"},
    "split": {"data", "out", "folds", "holdout", "by", "seed", "objects", "extend", "view", "holdout_from"},
    "estimate": {"data", "ensemble", "hours", "out", "price", "max_gpu_hours"},
    "train": {"data", "plan", "recipe", "fold", "out", "overrides", "set_file", "pseudo", "fresh"},
    "tune": {
        *("data", "plan", "recipe", "out", "trials", "budget_epochs", "folds", "space", "searcher", "scheduler"),
        *("repeats", "parallel", "seed", "cluster", "overrides"),
    },
    "distill": {"data", "plan", "model", "out", "recipe", "overrides", "fresh"},
    "label": {"data", "plan", "members", "out", "ensemble", "max_uncertainty"},
    "predict": {
        *("inputs", "out", "members", "model", "ensemble", "format", "sample_submission"),
        *("background", "crop", "type", "shard", "student"),
    },
    "merge": {"parts", "out"},
    "evaluate": {"data", "plan", "members", "out", "ensemble", "model", "baseline", "budget_ms", "out_ensemble"},
    "review": {"data", "plan", "members", "out", "ensemble", "share"},
    "drift": {"reference", "current", "out", "alpha"},
    "next": {"data", "model", "out", "number"},
    "register": {"data", "plan", "members", "report", "ensemble", "name"},
    "promote": {"data", "name", "override", "version", "reason"},
    "rollback": {"model", "name", "to", "reason"},
    "hold": {"model", "reason"},
    "release": {"model", "reason"},
    "history": {"model", "as_json", "verify"},
    "verify": {"model"},
    "models": {"as_json"},
    "reap": {"idle_minutes"},
    "serve": {"model", "student", "host", "port", "tokens", "max_requests", "max_megabytes", "timeout"},
    "recipes ls": set(),
    "recipes show": {"recipe"},
    "recipes cp": {"recipe", "out"},
    "recipes validate": {"recipe", "overrides"},
    "recipes describe": {"recipe", "overrides", "as_json"},
    "ensembles ls": set(),
    "ensembles show": {"ensemble"},
    "ensembles cp": {"ensemble", "out"},
    "ensembles validate": {"ensemble"},
}


def run(*arguments: object, code: int = 0) -> str:
    result = RUN.invoke(app.app, [str(argument) for argument in arguments])
    assert result.exit_code == code, result.output or result.exception
    return result.stdout


@pytest.fixture
def main(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str]]:
    """Runs `backdrop …` as a user would: exit code, and what is said on standard error."""

    def call(*arguments: object) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["backdrop", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            app.main()
        return int(exit_.value.code or 0), capsys.readouterr().err

    return call


def test_the_surface_is_frozen() -> None:
    group = typer.main.get_command(app.app)
    names = {}
    for name, command in group.commands.items():
        if name == "pipeline":  # test_pipeline.py has its options
            continue
        inner = getattr(command, "commands", None)
        commands = {f"{name} {sub}": one for sub, one in inner.items()} if inner else {name: command}
        names |= {full: {p.name for p in one.params} - {"help"} for full, one in commands.items()}
    held_by_test_pipeline = {name for name in names if name.startswith("pipeline ")}
    assert {name: names[name] for name in names if name not in held_by_test_pipeline} == SURFACE


def test_help_is_there_at_once() -> None:
    times = []
    for _ in range(3):
        start = time.monotonic()
        subprocess.run([sys.executable, "-m", "backdrop", "--help"], check=True, capture_output=True)
        times.append(time.monotonic() - start)
    baseline = time.monotonic()
    subprocess.run([sys.executable, "-c", "import typer"], check=True)
    # Against an import of typer alone, because a busy machine is slow at everything.
    assert min(times) < 0.4 + 3 * (time.monotonic() - baseline)


def test_from_photographs_to_a_report(tmp_path: Path) -> None:
    data, plan, out = tmp_path / "data", tmp_path / "plan.csv", tmp_path / "report"
    assert "4 objects x 2 views, 96x64" in run("sample", data, "--objects", 4, "--views", 2, "--size", "96x64")
    assert "0 errors, 0 warnings" in run("check", data)
    assert json.loads(run("check", data, "--json"))["images"] == 8
    assert "holdout" in run("split", data, "--out", plan, "--folds", 2, "--holdout", 0.25)
    sets = [word for one in SMALL for word in ("--set", one)]
    members = [tmp_path / f"m{fold}" for fold in (0, 1)]
    for fold, member in enumerate(members):
        said = run("train", data, "--plan", plan, "--recipe", "tiny", "--fold", fold, "--out", member, *sets)
        assert said.startswith(f"{member}: Dice 0.")
    said = run("evaluate", data, "--plan", plan, "--members", *members, "--out", out)
    assert "out of fold  tiny" in said
    metrics = json.loads((out / "metrics.json").read_text())
    assert metrics["oof"]["tiny"]["objects"] == 3
    assert set(metrics["holdout"]["members"]) == {"tiny-0", "tiny-1"}
    assert len((out / "images.csv").read_text().splitlines()) == 9
    assert "<html" in (out / "index.html").read_text()


def test_a_fault_in_the_data_is_exit_code_1(data: Path) -> None:
    (data / "train_masks" / "car00_01_mask.png").unlink()
    assert "error: " in run("check", data, code=1)
    assert json.loads(run("check", data, "--json", code=1))["faults"][0]["what"] == "has no mask"


def test_recipes(tmp_path: Path) -> None:
    assert [line.split()[0] for line in run("recipes", "ls").splitlines()] == [
        *("convnext-base", "convnext-tiny", "efficientnet-lite"),
        *("linknet34", "linknet34-concat", "linknet34-faithful", "linknet34-progressive", "quick", "student", "tiny"),
        *(
            "tiny-linknet",
            "unet-scratch",
            "unet-scratch-faithful",
            "unet-vgg11",
            "unet-vgg11-faithful",
            "unet11",
            "unet11-faithful",
        ),
    ]
    assert "network:" in run("recipes", "show", "tiny")
    mine = tmp_path / "mine.yaml"
    run("recipes", "cp", "tiny", mine)
    assert "tiny is valid" in run("recipes", "validate", mine)
    assert json.loads(run("recipes", "describe", mine, "--set", "epochs=3", "--json"))["parameters"] == 491_873
    assert "217.3 GMAC at 1920x1280" in run("recipes", "describe", "linknet34")
    assert "input size" not in run("recipes", "describe", "linknet34")
    assert "input size by epoch: 128x128 256x256\n" in run("recipes", "describe", "quick", "--set", "epochs=2")


def test_ensembles() -> None:
    assert [line.split()[0] for line in run("ensembles", "ls").splitlines()] == [
        *("best-overfitting", "best-overfitting-interview", "compact", "demo", "linknet34", "quick", "student", "tiny"),
    ]
    assert "members:" in run("ensembles", "show", "demo")


@pytest.mark.parametrize("name", shipped("ensembles"))
def test_an_ensemble_works_from_its_copy(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    said = run("ensembles", "cp", name, mine)
    if name == "student":  # its network has a teacher, so no pipeline trains it
        assert "pipeline" not in said
        assert f"backdrop distill …, and judge it: backdrop evaluate … --ensemble {mine}\n" in said
    else:
        assert f"backdrop pipeline run {mine} --data" in said
    assert run("ensembles", "validate", mine) == f"{name} is valid\n"
    assert find_ensemble(str(mine)) == find_ensemble(name)


def test_errors_are_one_line_and_exit_code_2(main, data: Path, plan: Path, tmp_path: Path) -> None:
    for arguments, message in {
        ("check", tmp_path / "nowhere"): "nowhere is not a folder. Check the path.",
        ("recipes", "show", "tinyy"): "There is no recipe tinyy. Did you mean tiny?",
        ("recipes", "cp", "tiny", plan): "plan.csv exists. Use another file.",
        ("ensembles", "show", "tinyy"): "There is no ensemble tinyy. Did you mean tiny?",
        ("ensembles", "cp", "tiny", plan): "plan.csv exists. Use another file.",
        ("split", data, "--out", plan, "--folds", 9): "don't fill 9 folds. Ask for fewer folds.",
        ("split", data, "--out", plan, "--by", "are"): "Did you mean area?",
        ("sample", data, "--size", "big"): "big is not a size.",
        ("evaluate", data, "--plan", plan, "--members", tmp_path, "--out", "r"): "is not a finished member",
    }.items():
        code, said = main(*arguments)
        assert code == 2
        assert said.startswith("error: ")
        assert message in said
        assert len(said.splitlines()) == 1


@pytest.mark.parametrize(
    "command",
    [
        ("recipes", "cp", "tiny"),
        ("ensembles", "cp", "tiny"),
        ("estimate", "DATA", "--out"),
        ("evaluate", "D", "--plan", "P", "--members", "M", "--out", "R", "--budget-ms", 5, "--out-ensemble"),
    ],
    ids=lambda command: command[0],
)
def test_a_new_yaml_file_has_a_name_by_which_it_is_found(
    command: tuple[str, ...], main, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`--recipe tiny` is the shipped one, whatever lies in the folder."""
    monkeypatch.chdir(tmp_path)
    assert main(*command, "tiny") == (2, "error: tiny isn't the name of a YAML file. Write it as tiny.yaml.\n")
    assert not list(tmp_path.iterdir())


def test_a_gain_is_higher_and_a_loss_as_much_lower() -> None:
    """The interval of a loss is a loss's, too."""
    for low, high, interval in ((None, None, ""), (-0.0005, 0.003, " (-0.00050 to +0.00300)")):
        gain = Spread(mean=0.00125, low=low, high=high)
        loss = Spread(mean=-0.00125, low=None if high is None else -high, high=None if low is None else -low)
        assert inference._gain_text(gain) == f"higher by 0.00125{interval}"
        assert inference._gain_text(loss) == f"lower by 0.00125{interval}"


def test_debug_shows_the_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    from backdrop.common.errors import ConfigError

    monkeypatch.setattr(sys, "argv", ["backdrop", "--debug", "recipes", "show", "tinyy"])
    with pytest.raises(ConfigError):
        app.main()


def test_what_the_operating_system_refuses_is_named(main, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse() -> None:
        raise OSError(28, "No space left on device", "/full/disk")

    monkeypatch.setattr(app, "app", refuse)
    assert main() == (
        2,
        "error: /full/disk: No space left on device. Free some space.\n",
    )


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (
            OSError(errno.EMFILE, "Too many open files", "/a"),
            "/a: Too many open files. Raise the limit of open files: u",
        ),
        (
            OSError(errno.EFBIG, "File too large", "/a"),
            "/a: File too large. Raise the limit of a file's size (ulimit -f",
        ),
        (
            RuntimeError("can't start new thread"),
            "No more threads can be started. Raise the limit of processes: ulimit",
        ),
        (FutureWarning("old"), "A library's warning was made an error (FutureWarning: old). Unset PYTHONWARNINGS, or"),
        (MemoryError(), "There isn't enough memory (MemoryError). Use smaller photographs or batches, or a machine"),
        (
            RuntimeError("CUDA out of memory."),
            "There isn't enough memory (CUDA out of memory.). Use smaller photographs",
        ),
    ],
)
def test_a_limit_or_a_warning_made_an_error_is_no_bug(
    error: Exception, says: str, main, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse() -> None:
        raise error

    monkeypatch.setattr(app, "app", refuse)
    code, said = main()
    assert code == 2
    assert said.startswith(f"error: {says}")


def test_an_override_without_a_version_says_so() -> None:
    result = RUN.invoke(app.app, ["promote", "cars", "--override"])
    assert str(result.exception) == "--override needs --version. See the versions with `backdrop history`."


def test_a_user_without_a_home_is_told_what_to_set(main, monkeypatch: pytest.MonkeyPatch) -> None:
    """As in a container whose user is only a number; MLflow asks for a home as it's imported."""
    monkeypatch.delenv("HOME")
    monkeypatch.setattr(os, "getuid", lambda: 1_000_770_000)
    monkeypatch.setattr(app, "app", Path.home)
    said = "error: User 1000770000 has no home folder. Set HOME to a folder that it may write to.\n"
    assert main() == (2, said)


@pytest.mark.parametrize("is_ours", [False, True])
def test_without_a_folder_for_temporary_files_tmpdir_is_named(is_ours: bool) -> None:
    """As in a container whose disk may only be read; whoever asked for the folder first may have caught the error."""
    code = (
        "import tempfile\n"
        "from pathlib import Path\n"
        "from backdrop.cli.app import guard\n"
        "from backdrop.common.storage import disk_errors\n"
        "def command():\n"
        f"    with disk_errors(Path('x')) if {is_ours} else open('/dev/null'):\n"
        "        tempfile.gettempdir()\n"
        "guard(command)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0)),  # nothing can be written
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert done.stderr == "error: No folder for temporary files can be written to. Set TMPDIR to one that can.\n"


def list_recipes(stdout: IO[str], unbuffered: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "backdrop", "recipes", "ls"],
        env=os.environ | {"PYTHONUNBUFFERED": unbuffered},
        stdout=stdout,
        stderr=subprocess.PIPE,
        text=True,
        check=False,
    )


@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_reader_that_has_seen_enough_ends_a_command_without_a_word(unbuffered: str) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer, "w") as pipe:
        done = list_recipes(pipe, unbuffered)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("closed", [(0,), (1,), (2,), (0, 1, 2)])
@pytest.mark.parametrize("words", ["recipes ls", "check missing"])
def test_a_closed_stream_is_as_good_as_none(words: str, closed: tuple[int, ...]) -> None:
    def run_with(*streams: int) -> subprocess.CompletedProcess[str]:
        closing = " ".join(f"{stream}>&-" for stream in streams)
        command = ["/bin/sh", "-c", f'"$0" -m backdrop {words} {closing}', sys.executable]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    plain, done = run_with(), run_with(*closed)
    assert done.returncode == plain.returncode
    assert done.stdout == ("" if 1 in closed else plain.stdout)
    assert done.stderr == ("" if 2 in closed else plain.stderr)


def test_no_file_takes_the_place_of_a_closed_stream() -> None:
    code = """
import os
from backdrop.cli import app
app._open_streams()
print(os.readlink("/proc/self/fd/0"), open(os.devnull).fileno() > 2)
"""
    command = ["/bin/sh", "-c", '"$0" -c "$1" <&-', sys.executable, code]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout == f"{os.devnull} True\n", done.stderr


@pytest.mark.thorough
def test_processes_import_nothing_from_the_current_folder(tmp_path: Path, data: Path) -> None:
    (tmp_path / "types.py").write_text("raise RuntimeError")
    code = "import sys; from backdrop.cli import app; app.main()"
    words = ["estimate", str(data), "--ensemble", str(tmp_path / "one.yaml")]
    (tmp_path / "one.yaml").write_text(
        "name: one\ndescription: one\nfolds: {count: 2}\n"
        "members: [{recipe: quick, set: {epochs: 2, input.size: 64x64}}]\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", code, *words],
        cwd=tmp_path,
        env={name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full here")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_standard_output_on_a_full_disk_is_no_bug(unbuffered: str) -> None:
    with Path("/dev/full").open("w") as full:
        done = list_recipes(full, unbuffered)
    assert done.returncode == 2
    what = "error: Output or a temporary file can't be written (No space left on device)"
    assert done.stderr == f"{what}. Free some space, or set TMPDIR to a folder elsewhere.\n"


def test_what_nobody_foresaw_is_one_line_that_asks_for_a_report(main, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail() -> None:
        raise ZeroDivisionError("division\nby zero at http://me:secret@host")

    monkeypatch.setattr(app, "app", fail)
    code, said = main("check", "photos")
    assert code == 2
    assert said == (
        "error: This is a bug in Backdrop (ZeroDivisionError: division by zero at http://host). "
        "Please report it with what `backdrop --debug …` prints.\n"
    )
    monkeypatch.setattr(sys, "argv", ["backdrop", "--debug", "check", "photos"])
    with pytest.raises(ZeroDivisionError):
        app.main()


def test_neither_a_traceback_nor_a_librarys_log_shows_a_secret() -> None:
    code = """
import logging, sys
from backdrop.cli import app

def fail():
    logging.getLogger("urllib3").warning("Retrying after %r: %s", OSError("broken"), "/x?X-Amz-Signature=hunter2xyzzy")
    try:
        raise ValueError("Invalid header value b'Bearer hunter2xyzzy'")
    except ValueError as error:
        raise app.BackdropError("No answer", "Wait") from error

app.app = fail
sys.argv = ["backdrop", "--debug"]
app.main()
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert "Retrying after OSError('broken'): /x?X-Amz-Signature=" in done.stderr
    assert "Invalid header value" in done.stderr
    assert "BackdropError: No answer. Wait." in done.stderr
    assert "hunter2" not in done.stderr


def test_members_take_all_words_that_follow(data: Path, plan: Path, tmp_path: Path) -> None:
    given = ("--plan", plan, "--out", tmp_path / "r", "--members")
    for words in (
        ("evaluate", data, *given, "a", "b"),
        ("evaluate", *given, "a", "b", "--ensemble", "tiny", data),
        ("evaluate", *given, "a", "--members", "b", "--", data),
        ("evaluate", data, *given[:-1], "--members=a", "b"),
    ):
        result = RUN.invoke(app.app, [str(word) for word in words])
        assert str(result.exception).startswith("a is not a finished member"), words
    for words in (("evaluate", *given, "a", "b", data), ("evaluate", *given, data)):
        result = RUN.invoke(app.app, [str(word) for word in words])
        assert str(result.exception) == (
            "DATA is missing. Name it before --members, which takes all words that follow it."
        )


def test_a_usage_error_shows_no_password(main) -> None:
    code, said = main("recipes", "show", "tiny", "http://me:secret@host")
    assert code == 2
    assert "http://host" in said
    assert "secret" not in said


def test_only_paths_and_s3_are_written(data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for words in (("import", data, "http://me:secret@host"), ("split", data, "--out", "ftp://me:secret@host/plan.csv")):
        result = RUN.invoke(app.app, [str(word) for word in words])
        assert "host" in str(result.exception)
        assert str(result.exception).endswith("can't be written. Name a path or an s3:// address.")
        assert "secret" not in str(result.exception)
    assert [path.name for path in tmp_path.iterdir() if path.name != "cache"] == ["data"]


def test_only_the_first_objects_are_checked(data: Path) -> None:
    (data / "train_masks" / "car03_01_mask.png").unlink()
    (data / "train" / "car04_01.jpg").unlink()
    assert "2 errors" in run("check", data, code=1)
    assert f"{data}: 3 objects, 6 photographs" in run("check", data, "--objects", 3)
    assert "1 error," in run("check", data, "--objects", 4, code=1)


def test_version() -> None:
    assert run("--version").startswith("backdrop 0.")
