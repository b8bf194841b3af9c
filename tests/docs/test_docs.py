"""What the documentation says is there: files, anchors, commands, options, keys, and the output that it shows."""

import ast
import json
import pkgutil
import re
import shlex
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml
from typer.main import get_command
from typer.testing import CliRunner

from backdrop.cli.app import app
from backdrop.config import find_ensemble, find_recipe
from backdrop.config.postprocessing import BestMembers
from backdrop.evaluation.ablation import choose_best
from backdrop.evaluation.records import dump_scores
from backdrop.pipelines.package import Package, build, build_prediction
from backdrop.pipelines.parameters import read_parameters
from tests.docs.pages import HIDDEN, PAGES, ROOT, Block, Shown, anchors, blocks, commands, links, shown
from tests.evaluation.test_ablation import SCORES

UsageError = typer.BadParameter.__base__  # click's, which typer brings along
PLACEHOLDER = re.compile(r"[A-Z][A-Z-]*$")
QUICK = ("sample", "check", "split", "recipes", "ensembles", "pipeline compile")  # commands that take seconds
KUBERNETES = {"apiVersion", "env", "volumes"}  # one of these is in an object of its, or in a part of one


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_link_leads_somewhere(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), f"{name_of(page)} links to {link}"
        if anchor:
            assert anchor in anchors(target), f"{name_of(page)} links to {link}"


def find_command(words: list[str]) -> tuple[Any, Any, list[str]]:
    """The command that some words name, its context, and the words that are its own."""
    command: Any = get_command(app)
    context = command.context_class(command, info_name="backdrop")
    while hasattr(command, "commands") and words and not PLACEHOLDER.match(words[0]):
        name, *words = words
        if name in options_of(command):
            continue
        missing = [one for one in name.split("|") if one not in command.commands]
        if missing:
            raise typer.BadParameter(f"there is no command {missing[0]}")
        command = command.commands[name.split("|")[0]]
        context = command.context_class(command, info_name=name, parent=context, **command.context_settings)
    return command, context, words


def options_of(command: Any) -> set[str]:
    return {name for one in command.params for name in (*one.opts, *one.secondary_opts)} | {"--help"}


def parse(text: str) -> None:
    """Parses a command as the command line would; of a synopsis or a shortened command only the options' names.

    Raises:
        UsageError: if it has no such command or option, or a value is wrong.
    """
    words = shlex.split(re.sub(r"[][…]| \| ", " ", text))[1:]
    shortened = re.search(r"[][…]", text) or any(PLACEHOLDER.match(word) for word in words)
    command, context, words = find_command(words)
    unknown = [word for word in words if re.match("--?[a-z]", word) and word not in options_of(command)]
    if unknown:
        raise typer.BadParameter(f"there is no option {unknown[0]}")
    if words and not shortened:
        command.parse_args(context, words)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_command_exists_with_its_options(page: Path) -> None:
    for text in commands(page):
        try:
            parse(text)
        except UsageError as error:
            pytest.fail(f"{name_of(page)}: {text}: {error.format_message()}")


def test_a_command_that_is_not_there_is_found() -> None:
    for text in ("backdrop trian data", "backdrop check data --jsn", "backdrop split data --folds x --out a"):
        with pytest.raises(UsageError):
            parse(text)


@pytest.fixture(scope="module")
def package() -> Package:
    return build(find_ensemble("tiny"), [0])


YAML_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language == "yaml"]


@pytest.mark.parametrize("block", YAML_BLOCKS, ids=str)
def test_every_key_of_a_yaml_block_exists(
    block: Block, package: Package, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in re.findall(r"recipe: \./([\w-]+\.yaml)", block.text):
        CliRunner().invoke(app, ["recipes", "cp", "tiny", name])
    path = tmp_path / "block.yaml"
    path.write_text(block.text)
    for content in yaml.safe_load_all(block.text):
        if KUBERNETES & set(content):
            continue
        if "members" in content:
            find_ensemble(str(path))
        elif "network" in content:
            find_recipe(str(path))
        elif "data" in content:
            read_parameters(path, package)
        elif "images" in content:
            read_parameters(path, build_prediction(2))
        else:  # the chart's values
            schema = json.loads((ROOT / "charts/backdrop/values.schema.json").read_text())
            defaults = yaml.safe_load((ROOT / "charts/backdrop/values.yaml").read_text())
            jsonschema.validate(over(defaults, content), schema)


PYTHON_BLOCKS = [block for page in PAGES for block in blocks(page) if block.language == "python"]


@pytest.mark.parametrize("block", PYTHON_BLOCKS, ids=str)
def test_every_import_of_a_python_block_exists(block: Block) -> None:
    for node in ast.walk(ast.parse(block.text)):
        if isinstance(node, ast.ImportFrom):
            for alias in node.names:
                pkgutil.resolve_name(f"{node.module}:{alias.name}")
        elif isinstance(node, ast.Import):
            for alias in node.names:
                pkgutil.resolve_name(alias.name)


def test_the_best_members_are_chosen_as_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("report").mkdir()
    Path("report/images.csv").write_bytes(dump_scores(SCORES))
    (block,) = [block for block in PYTHON_BLOCKS if "choose_best" in block.text]
    exec(block.text, {})
    assert BestMembers.model_validate_json(capsys.readouterr().out) == choose_best(SCORES, 2, 0.05)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_python_name_exists(page: Path) -> None:
    for name in re.findall(r"`(backdrop(?:\.\w+){2,})`", page.read_text()):
        pkgutil.resolve_name(name)


def over(defaults: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """The chart's values with these, as Helm merges them."""

    def merged(key: str) -> Any:
        before, value = defaults.get(key), values.get(key, defaults.get(key))
        return over(before, value) if isinstance(before, dict) and isinstance(value, dict) else value

    return {key: merged(key) for key in {**defaults, **values}}


VARIES = re.compile(rf"[0-9a-f]{{12,64}}|\d[\d,]*(?:\.\d+)*|{HIDDEN}")


def normal(text: str) -> str:
    """A pattern for output in which numbers, digests and what a page leaves out may be anything."""
    text = "\n".join(" ".join(line.split()) for line in text.strip().splitlines())

    def pattern(part: str) -> str:
        return r"[\s\S]*" if part == HIDDEN else r"[0-9a-f,.]+" if VARIES.fullmatch(part) else re.escape(part)

    return "".join(map(pattern, re.split(f"({VARIES.pattern})", text)))


def quick(one: Shown) -> bool:
    return " ".join(one.words).startswith(QUICK) and HIDDEN not in one.words and "--extend" not in one.words


PAGES_WITH_OUTPUT = [page for page in PAGES if any(map(quick, shown(page)))]


@pytest.mark.parametrize("page", PAGES_WITH_OUTPUT, ids=name_of)
def test_shown_output_is_what_the_program_prints(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for block in YAML_BLOCKS:
        if block.page == page and "members" in yaml.safe_load(block.text):
            Path(f"{yaml.safe_load(block.text)['name']}.yaml").write_text(block.text)
    for one in filter(quick, shown(page)):
        result = CliRunner().invoke(app, one.words)
        assert result.exit_code == 0, (one.words, result.output)
        if not one.output.strip():
            continue
        printed = "\n".join(" ".join(line.split()) for line in result.stdout.strip().splitlines())
        assert re.fullmatch(normal(one.output), printed), f"{one.block}: {' '.join(one.words)} prints\n{result.stdout}"


PAGE_OF = {"pipeline": "pipelines"}
COMMANDS = get_command(app).commands  # type: ignore[attr-defined]  # it is a group


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_a_page_with_its_options(name: str) -> None:
    text = (ROOT / f"docs/reference/{PAGE_OF.get(name, name)}.md").read_text()
    command = COMMANDS[name]
    for below, one in getattr(command, "commands", {name: command}).items():
        assert below in text
        for parameter in one.params:
            names = [word for word in (*parameter.opts, *parameter.secondary_opts) if word.startswith("--")]
            assert not names or "--help" in names or any(word in text for word in names), names
