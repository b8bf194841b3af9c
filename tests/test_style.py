"""What ruff can't hold: of parameters, attributes, text files and records, and of what tests replace."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FILES = sorted(path for folder in ("src/backdrop", "components", "pipelines") for path in (ROOT / folder).rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MOST_PARAMETERS = 8
# A framework calls what these decorate: typer a command, KFP a component's body and a graph.
CALLED_BY_A_FRAMEWORK = ("command", "component", "cpu_component", "dsl.pipeline")
# Where attributes begin: the frameworks' own hooks do what __init__ does elsewhere.
BEGINNINGS = ("__init__", "__enter__", "load_context", "_load_context_setting_or_default")

Function = ast.FunctionDef | ast.AsyncFunctionDef


def nodes(path: Path) -> Iterator[ast.AST]:
    return ast.walk(ast.parse(path.read_text()))


def name_of(decorator: ast.expr) -> str:
    return ast.unparse(decorator.func if isinstance(decorator, ast.Call) else decorator)


def parameters(function: Function) -> list[str]:
    given = function.args
    names = [one.arg for one in (*given.posonlyargs, *given.args, *given.kwonlyargs)]
    return [name for name in names if name not in ("self", "cls")]


def born(method: Function) -> set[str]:
    """The attributes that a method sets on its object."""
    return {
        node.attr
        for node in ast.walk(method)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and isinstance(node.value, ast.Name)
        and node.value.id == "self"
    }


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_function_takes_a_train_of_parameters(path: Path) -> None:
    long = {
        node.name: len(parameters(node))
        for node in nodes(path)
        if isinstance(node, Function)
        and len(parameters(node)) > MOST_PARAMETERS
        and not any(name_of(decorator) in CALLED_BY_A_FRAMEWORK for decorator in node.decorator_list)
    }
    assert not long, "Make a record of them"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_attribute_is_born_in_the_middle_of_a_method(path: Path) -> None:
    for each in nodes(path):
        if not isinstance(each, ast.ClassDef):
            continue
        targets = [t for node in each.body if isinstance(node, ast.Assign) for t in node.targets]
        targets += [node.target for node in each.body if isinstance(node, ast.AnnAssign)]
        known = {target.id for target in targets if isinstance(target, ast.Name)}
        methods = [node for node in each.body if isinstance(node, Function)]
        known |= {name for method in methods if method.name in BEGINNINGS for name in born(method)}
        late = {name for method in methods for name in born(method)} - known
        assert not late, f"{each.name} has no such attribute when it is made"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_text_has_an_encoding_whatever_the_locale_is(path: Path) -> None:
    """ruff's PLW1514 sees it only where it knows that something is a path."""
    for call in (node for node in nodes(path) if isinstance(node, ast.Call)):
        name, given = name_of(call).rpartition(".")[2], {one.arg: ast.unparse(one.value) for one in call.keywords}
        words = [one.value for one in [*call.args, *(k.value for k in call.keywords)] if isinstance(one, ast.Constant)]
        mode = next((word for word in words if isinstance(word, str) and re.fullmatch("[rwxa][bt+]*", word)), "")
        is_text = name in ("read_text", "write_text") and "." in name_of(call) and len(call.args) < 2
        is_text |= name in ("open", "fdopen") and bool(mode) and "b" not in mode
        is_text |= name == "open" and not mode and (not call.args or name_of(call) == "open")
        is_text |= given.get("text") == "True"
        assert not is_text or "encoding" in given, ast.unparse(call)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_is_no_record_is_an_error_of_ours(path: Path) -> None:
    """`config.records.parse` explains it; components read what the task before them wrote."""
    if path.is_relative_to(ROOT / "components") or path.is_relative_to(ROOT / "src/backdrop/components"):
        return
    caught = [
        call
        for attempt in nodes(path)
        if isinstance(attempt, ast.Try) and any("Error" in ast.unparse(one.type or attempt) for one in attempt.handlers)
        for statement in attempt.body
        for call in ast.walk(statement)
    ]
    known = {ast.unparse(call) for call in caught}
    for call in (node for node in nodes(path) if isinstance(node, ast.Call)):
        if name_of(call).rpartition(".")[2] in ("model_validate", "model_validate_json", "validate_json"):
            assert ast.unparse(call) in known, ast.unparse(call)


@pytest.mark.parametrize("path", TESTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_test_replaces_the_clock_of_all_threads(path: Path) -> None:
    """A server in another thread, asyncio's loop, then waits for hours: replace a module's own name `time` instead."""
    for call in (node for node in nodes(path) if isinstance(node, ast.Call) and name_of(node).endswith(".setattr")):
        target = ast.unparse(call.args[0])
        assert target != "time", target
        assert not re.search(r"\btime\.\w+'$", target), target
