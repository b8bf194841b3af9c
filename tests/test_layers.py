"""Imports run downward only, as the design's layers say, and heavy libraries stay where they belong."""

import ast
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

SOURCE = Path(__file__).parents[1] / "src" / "backdrop"
# From the top down; folders of one row don't import each other, except the two rows of what runs networks.
LAYERS = [
    "cli",
    "kubeflow local serving",
    "pipelines",
    "components",
    "steps",
    "tracking",
    "report",
    "tuning",
    "training",
    "evaluation",
    "inference",
    "data models augmentation",
    "config",
    "common",
]
RANK = {folder: rank for rank, row in enumerate(reversed(LAYERS)) for folder in row.split()}
# Who may import what is heavy or optional.
HEAVY = {
    "mlflow": {"tracking"},
    "model_signing": {"tracking"},
    "kfp": {"pipelines", "components", "kubeflow", "local"},
    "ray": {"tuning"},
    "optuna": {"tuning"},
    "kubernetes": {"common"},
    "typer": {"cli"},
    "fastapi": {"serving"},
    "uvicorn": {"serving"},
    "prometheus_client": {"serving"},
    "onnx": {"inference"},
    "onnxruntime": {"inference"},
    "timm": {"models"},
}
FILES = sorted(path for folder in RANK for path in (SOURCE / folder).rglob("*.py"))


def dotted(path: Path) -> str:
    parts = ("backdrop", *path.relative_to(SOURCE).with_suffix("").parts)
    return ".".join(parts).removesuffix(".__init__")


def imports(path: Path) -> Iterator[str]:
    """The modules a file imports, also inside functions: `from a import b` may mean a.b."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_folder_has_its_layer() -> None:
    folders = {path.name for path in SOURCE.iterdir() if (path / "__init__.py").is_file()}
    assert folders == set(RANK)
    assert {path.name for path in SOURCE.glob("*.py")} == {"__init__.py", "__main__.py"}


@pytest.mark.parametrize("path", FILES, ids=dotted)
def test_imports_run_downward_only(path: Path) -> None:
    own = dotted(path).split(".")[1]
    for name in imports(path):
        first, *rest = name.split(".")
        if first == "backdrop" and rest[0] in RANK and rest[0] != own:
            assert RANK[rest[0]] < RANK[own], f"{path} imports {name} from its own layer or one above"
        assert own in HEAVY.get(first, {own}), f"{path} imports {first}"


def test_there_is_no_circle() -> None:
    modules = {dotted(path): path for path in FILES}
    graph = {
        module: {parent for name in imports(path) for parent in (name, name.rpartition(".")[0]) if parent in modules}
        for module, path in modules.items()
    }
    # A package that re-exports its own modules is no circle: they don't import it back.
    while leaves := [module for module, targets in graph.items() if not targets & set(graph) - {module}]:
        for module in leaves:
            del graph[module]
    assert not graph, f"These import each other: {sorted(graph)}"


# In the order in which one process imports them; what each may not load is still absent from all that came before.
LATE = (
    ("import backdrop.config", {"torch", "cv2", "numpy", "albumentations", "mlflow", "kfp", "ray", "typer"}),
    ("import backdrop.steps.train", {"torch", "albumentations", "kfp", "mlflow", "ray", "typer"}),
    ("import backdrop.inference.ensemble", {"albumentations", "kfp", "mlflow", "ray", "typer"}),
    ("import backdrop.training.fit", {"kfp", "mlflow", "ray", "typer"}),
    (
        "import backdrop.steps.train, backdrop.steps.evaluate, backdrop.steps.split, backdrop.steps.predict",
        {"mlflow", "kfp", "ray", "typer"},
    ),
)

# They ask the registry, and run no network unless the gate needs the champion's.
REGISTRY = (
    (
        "from backdrop.steps import history, hold, models, promote, release, rollback, verify",
        {"torch", "albumentations", "kfp", "ray", "typer"},
    ),
)


@pytest.mark.parametrize(
    "imports",
    [
        [("import backdrop.cli.app", {"torch", "numpy", "cv2", "albumentations", "pydantic", "mlflow", "kfp", "ray"})],
        LATE,
        REGISTRY,
    ],
    ids=["cli", "backdrop", "registry"],
)
def test_heavy_libraries_wait_until_they_are_needed(imports: Sequence[tuple[str, set[str]]]) -> None:
    code = "\n".join(f"import sys\n{statement}\nprint(*sys.modules)" for statement, _ in imports)
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for (statement, absent), line in zip(imports, done.stdout.splitlines(), strict=True):
        assert not {name.partition(".")[0] for name in line.split()} & absent, statement
