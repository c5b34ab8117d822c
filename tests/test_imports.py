"""The house rules that a machine can check: imports point one way, heavy and unsafe modules stay where they belong."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from PIL import Image

import attention_refine

ROOT = Path(attention_refine.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
# Every file and folder of the package. One may import what stands on a line above its own, and nothing else: in a function
# and for types alone too.
ORDER = [
    {"core", "layouts", "moved", "version"},
    {"backbones"},
    {"maps", "metrics", "output"},
    {"drawing", "heads"},
    {"embedded", "refined"},
    {"data"},
    {"training"},
    {"evaluation", "explanation", "export", "objectives"},
    {"hub", "report", "total_loss"},
    {"auditing", "hf_auto", "inspection"},
    {"model_uses"},
    {"model"},
    {"mending", "wrapping"},
    {"prompting", "recipe", "support_table"},
    {"repairing"},
    {"__init__", "demo"},
    {"app"},
    {"commands"},
    {"cli"},
]  # fmt: skip


def rank(part: str) -> int:
    return next(place for place, parts in enumerate(ORDER) if part in parts)


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text(encoding="utf-8"))


@cache
def imports(path: Path) -> list[tuple[int, str, list[str], bool]]:
    """Every import as ``(line, dotted name, names, lazy)``, made absolute; lazy ones stand in a function."""
    tree = parsed(path)
    package = ("attention_refine", *path.relative_to(ROOT).parts[:-1])
    lazy = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) or is_type_checking(node)
        for inner in ast.walk(node)
    }
    found = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name, [], node in lazy) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            name = ".".join([*base, *([node.module] if node.module else [])])
            found.append((node.lineno, name, [alias.name for alias in node.names], node in lazy))
    return found


def is_type_checking(node: ast.AST) -> bool:
    return isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"


def part_of(path: Path) -> str:
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def where(path: Path, line: int) -> str:
    return f"{path.relative_to(ROOT.parent)}:{line}"


every_file = pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))


def importers(package: str) -> dict[str, set[str]]:
    """Files that import ``package`` anywhere, with what they take from it."""
    found: dict[str, set[str]] = {}
    for path in FILES:
        for _, name, taken, _ in imports(path):
            if name.split(".")[0] == package:
                these = {f"{name}.{one}" for one in taken} or {name}
                found[str(path.relative_to(ROOT))] = found.get(str(path.relative_to(ROOT)), set()) | these
    return found


def test_every_part_has_its_place():
    parts = {part_of(path) for path in FILES}
    named = [part for line in ORDER for part in line]
    assert sorted(named) == sorted(parts), "a new file or folder of the package gets its place in ORDER"


@pytest.mark.parametrize(
    "room", [path for path in FILES if path.name == "__init__.py"], ids=lambda path: path.parent.name
)
def test_every_room_says_what_it_is(room):
    assert ast.get_docstring(parsed(room))
    if room.parent.parent == ROOT:
        assert f"`{room.parent.name}/`" in (ROOT.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")


@every_file
def test_imports_point_one_way(path):
    here = part_of(path)
    for line, name, taken, _ in imports(path):
        if name.split(".")[0] != "attention_refine":
            continue
        for part in name.split(".")[1:2] or taken:
            if part != here and (ROOT / part).with_suffix(".py").exists() | (ROOT / part).is_dir():
                assert rank(part) < rank(here), (
                    f"{where(path, line)} imports {part}, which does not stand before {here}"
                )


def test_no_imports_in_a_circle():
    """Files, with what is imported in a function or for types alone counted."""
    modules = {path.relative_to(ROOT.parent).with_suffix("").as_posix().replace("/", "."): path for path in FILES}
    modules = {module.removesuffix(".__init__"): path for module, path in modules.items()}
    graph = {
        module: {
            inner if inner in modules else name
            for _, name, taken, _ in imports(path)
            for inner in ([f"{name}.{one}" for one in taken] or [name])
            if inner in modules or name in modules
        }
        - {module}
        for module, path in modules.items()
    }
    done: set[str] = set()

    def walk(module: str, trail: tuple[str, ...]) -> None:
        assert module not in trail, " -> ".join([*trail[trail.index(module) :], module])
        if module not in done:
            for inner in graph[module]:
                walk(inner, (*trail, module))
            done.add(module)

    for module in graph:
        walk(module, ())


@every_file
def test_metrics_and_maps_know_nothing_of_the_model(path):
    if part_of(path) not in ("maps", "metrics", "layouts", "backbones"):
        return
    for line, name, taken, _ in imports(path):
        parts = {*name.split(".")[1:2], *(taken if name == "attention_refine" else [])}
        assert not parts & {"model", "hub"} or not name.startswith("attention_refine"), where(path, line)


def test_every_function_says_its_types():
    """Arguments and what is returned, inner functions too: what mypy asks (pyproject.toml), in a second."""
    for path in FILES:
        for node in ast.walk(parsed(path)):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
                of = node.args
                every = [*of.posonlyargs, *of.args, *of.kwonlyargs, *filter(None, (of.vararg, of.kwarg))]
                bare = [each.arg for each in every if each.annotation is None and each.arg not in ("self", "cls")]
                assert not bare, f"{where(path, node.lineno)}: {node.name} has {bare} without a type"
                assert node.returns is not None or node.name == "__init__", where(path, node.lineno)


def test_only_backbones_know_timm_and_transformers():
    allowed_elsewhere = {"output.py": {"transformers.utils.ModelOutput"}}
    for package in ("timm", "transformers"):
        for file, taken in importers(package).items():
            if not file.startswith(("backbones/", "hf_auto/")):
                assert taken <= allowed_elsewhere.get(file, set()), f"{file} imports {sorted(taken)}"


def test_only_places_that_resolve_a_name_know_the_hub():
    allowed = ("hub/", "data.py", "backbones/")
    assert all(file.startswith(allowed) for file in importers("huggingface_hub")), importers("huggingface_hub")


def test_only_training_knows_accelerate():
    assert {Path(file).parts[0] for file in importers("accelerate")} == {"training"}


def test_no_pickle_and_no_evaluated_code():
    """Checkpoints are data. ``torch.load`` is a pickle too, unless it is told to read weights only."""
    for path in FILES:
        for line, name, taken, _ in imports(path):
            roots = {name.split(".")[0], *(f"{name}.{one}" for one in taken)}
            assert not roots & {"pickle", "dill", "cloudpickle", "marshal", "shelve"}, where(path, line)
        for node in ast.walk(parsed(path)):
            if not isinstance(node, ast.Call):
                continue
            called = node.func
            if isinstance(called, ast.Name):
                assert called.id not in ("eval", "exec", "compile", "__import__"), where(path, node.lineno)
            if ast.unparse(called) == "torch.load":
                given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
                assert given.get("weights_only") == "True", f"{where(path, node.lineno)}: torch.load of a pickle"
            for keyword in node.keywords:
                if keyword.arg == "trust_remote_code":
                    assert getattr(keyword.value, "value", None) is False, where(path, node.lineno)


SECONDS_EACH = (  # to import: loaded with what needs them, not with the package
    "accelerate", "datasets", "matplotlib", "pandas", "scipy", "sklearn", "timm", "torch._dynamo", "torchmetrics",
    "torchvision", "transformers.modeling_utils",
)  # fmt: skip


@pytest.mark.parametrize("does", ["import attention_refine", "from attention_refine import cli; cli._parser([])"])
def test_neither_the_package_nor_a_short_help_imports_anything_slow_but_torch(does):
    probe = f"import sys; {does}; print(*(name for name in {SECONDS_EACH} if name in sys.modules))"
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert run.stdout.split() == []


def test_looking_at_a_folder_imports_no_network_library(tmp_path):
    """Neither the command nor what it calls: the import of torch alone takes seconds, the look a twentieth of one."""
    for name in ("train/cat/1.png", "train/dog/2.png", "train/masks/cat/1.png", "test/cat/3.png"):
        file = tmp_path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), 255).save(file)
    (tmp_path / "train" / "metadata.csv").write_text('file_name,bbox\ncat/1.png,"[1, 1, 4, 4]"\n', encoding="utf-8")
    heavy = ("torch", "timm", "transformers", *SECONDS_EACH)
    probe = (
        f"import sys; from attention_refine.cli import main; code = main(['check', {str(tmp_path)!r}]); "
        f"print(code, *(name for name in {heavy} if name in sys.modules))"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT.parent)}
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, env=environment)
    assert run.returncode == 0, run.stderr
    assert "train: 2 images, 2 classes, 1 mask, 1 box" in run.stdout
    assert run.stdout.splitlines()[-1] == "0"


@pytest.mark.parametrize(
    "file, name", [("model.py", "forward"), ("training/loop.py", "finetune"), ("evaluation/evaluate.py", "evaluate")]
)
def test_what_is_read_first_is_short(file, name):
    """Docstrings counted: each fits on a screen, and names what it is made of."""
    found = [node for node in ast.walk(parsed(ROOT / file)) if isinstance(node, ast.FunctionDef) and node.name == name]
    assert [node.end_lineno - node.lineno + 1 < 60 for node in found] == [True]


def test_the_model_a_head_and_the_adapter_are_read_in_one_sitting():
    lines = [
        (ROOT / file).read_text(encoding="utf-8").count("\n")
        for file in ("model.py", "heads/abn.py", "backbones/adapter.py")
    ]
    assert sum(lines) < 700
