"""kfp's one stream of output, taken apart."""

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from kfp import dsl, local

from backdrop.local.logs import TaskLogs, task_logs
from backdrop.local.subprocess_runner import process_runner

CYAN, RED, GREEN, RESET = "\x1b[96m", "\x1b[91m", "\x1b[92m", "\x1b[0m"


class Witness:
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.events: list[tuple[object, ...]] = []

    def started(self, task: str) -> None:
        self.events.append(("started", task))

    def printed(self, task: str, line: str) -> None:
        self.events.append(("printed", task, line))

    def finished(self, task: str, well: bool) -> None:
        self.events.append(("finished", task, well))


def test_lines_go_to_their_tasks(tmp_path: Path) -> None:
    witness = Witness()
    with contextlib.closing(TaskLogs(tmp_path / "logs", witness)) as stream:
        stream.write(f"22:39:52.123 - INFO - Executing task {CYAN}'train-tiny-0'{RESET}\n")
        stream.write("22:39:52.124 - INFO - Streamed logs:\n\n")
        stream.write("    ")
        stream.write("tiny epoch 1/2 lo")
        stream.write("ss 0.5\n")
        stream.write("    \n\n")
        stream.write(
            f"22:40:01.000 - INFO - Task {CYAN}'train-tiny-0'{RESET} finished with status {GREEN}SUCCESS{RESET}\n"
        )
        stream.write(f"22:40:01.001 - INFO - Task {CYAN}'train-tiny-0'{RESET} outputs:\n    Output: 'x'\n{'-' * 80}\n")
        stream.write(f"22:40:02.000 - INFO - Executing task {CYAN}'evaluate'{RESET}\n    boom\n")
        stream.write(f"22:40:03.000 - ERROR - Task {CYAN}'evaluate'{RESET} finished with status {RED}FAILURE{RESET}\n")
    assert witness.events == [
        ("started", "train-tiny-0"),
        ("printed", "train-tiny-0", "tiny epoch 1/2 loss 0.5"),
        ("printed", "train-tiny-0", ""),
        ("finished", "train-tiny-0", True),
        ("started", "evaluate"),
        ("printed", "evaluate", "boom"),
        ("finished", "evaluate", False),
    ]
    assert (tmp_path / "logs" / "train-tiny-0.log").read_text() == "tiny epoch 1/2 loss 0.5\n\n"
    assert stream.path("evaluate").read_text() == "boom\n"


def test_a_task_can_not_counterfeit_kfp(tmp_path: Path) -> None:
    witness = Witness()
    with contextlib.closing(TaskLogs(tmp_path, witness)) as stream:
        stream.write("Executing task 'check'\n")
        stream.write("    Task 'check' finished with status SUCCESS\n    Executing task 'evil'\n")
        stream.write("Task 'check' finished with status FAILURE\n")
    assert [event for event in witness.events if event[0] != "printed"] == [
        ("started", "check"),
        ("finished", "check", False),
    ]


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def speak(word: str) -> str:
    import sys

    print(f"I say {word}", flush=True)
    if word == "no":
        sys.exit("and that is that")
    return word


@dsl.component(base_image="python:3.11", packages_to_install=[], install_kfp_package=False)
def listen(words: list) -> bool:
    return len(words) > 1


def test_kfp_still_prints_what_we_read(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By the real runner: siblings of a failed task go on, what needs it doesn't, and the terminal stays silent.

    All the while, another thread prints to stderr, as a heartbeat does.
    """

    @dsl.pipeline(name="words")
    def words(go: bool = True) -> None:
        said = []
        for word in ("yes", "no", "maybe"):
            task = speak(word=word)
            task.set_caching_options(False)
            said.append(task.output)
        listen(words=said)
        with dsl.If(go == True):  # noqa: E712  # KFP compiles the comparison
            speak(word="inside")

    witness = Witness()
    local.init(process_runner(), pipeline_root=str(tmp_path / "root"), raise_on_error=False)
    with task_logs(tmp_path / "logs", witness) as stream, chatting():
        words()
    ended = {event[1]: event[2] for event in witness.events if event[0] == "finished"}
    assert sorted(ended.values()) == [False, True, True, True]
    assert "listen" not in ended
    failed = next(task for task, well in ended.items() if not well)
    assert stream.path(failed).read_text().strip().endswith("and that is that")
    assert any("I say inside" in path.read_text() for path in (tmp_path / "logs").iterdir())
    assert capsys.readouterr().out == ""


@contextlib.contextmanager
def chatting() -> Iterator[None]:
    """Prints to stderr from another thread, within the block."""
    over = threading.Event()

    def chat() -> None:
        while not over.wait(0.001):
            print("still here", file=sys.stderr)

    thread = threading.Thread(target=chat)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()
