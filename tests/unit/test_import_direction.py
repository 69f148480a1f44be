"""Imports run down the floors of docs/architecture.md, and nowhere else."""

import ast
import re
from pathlib import Path

import pytest

import segal
from segal.models.spec import DEFAULT_TASK
from segal.tasks import TASKS

ROOT = Path(segal.__file__).parent
FLOORS = [
    {"functional", "errors"},
    {"system", "registry"},
    {"candidates", "scenes"},
    {"data", "models", "pictures"},
    {"signals"},
    {"tasks", "strategies"},
    {"training", "scanning", "annotation"},
    {"runs"},
    {"config", "reporting"},
    {"comparison"},
    {"jobs"},
    {"cli", "commands", "__main__"},
]
# Within a floor these come in order; every other pair of neighbours knows nothing of the other.
STEPS = [("commands", "cli"), ("cli", "__main__")]
REGISTRY_READERS = {"cli", "commands", "jobs"}
"""Only these look names up in the registries of strategies."""


def floor_of(room):
    return next(i for i, floor in enumerate(FLOORS) if room in floor)


def modules():
    return sorted(p for p in ROOT.rglob("*.py") if p != ROOT / "__init__.py")


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


def imports(path):
    """Modules of segal that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: a relative import"
            if node.module == "segal":
                yield from (f"segal.{name.name}" for name in node.names)
            elif (node.module or "").startswith("segal."):
                yield node.module
        elif isinstance(node, ast.Import):
            yield from (name.name for name in node.names if name.name.startswith("segal."))


def reaches(upper, lower):
    """Whether STEPS lead from one room of a floor to another."""
    return any(
        later == upper and (earlier == lower or reaches(earlier, lower)) for earlier, later in STEPS
    )


def test_every_room_has_one_floor():
    rooms = [room for floor in FLOORS for room in floor]
    assert len(rooms) == len(set(rooms))
    assert {room_of(path) for path in modules()} == set(rooms)


@pytest.mark.parametrize("path", modules(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_down(path):
    room = room_of(path)
    for name in imports(path):
        target = name.split(".")[1]
        if target in {room, "__version__"}:
            continue
        down = floor_of(target) < floor_of(room)
        assert down or reaches(room, target), f"{room} imports {name}"


def test_functional_imports_nothing_of_segal_but_itself():
    for path in (ROOT / "functional").rglob("*.py"):
        assert all(name.startswith("segal.functional") for name in imports(path)), path


def test_strategies_know_no_data_model_or_task():
    for path in (ROOT / "strategies").rglob("*.py"):
        rooms = {name.split(".")[1] for name in imports(path)}
        assert not rooms & {"data", "models", "tasks"}, path


def test_names_are_looked_up_above_only():
    for path in modules():
        if "segal.strategies" in set(imports(path)):
            assert room_of(path) in REGISTRY_READERS, path


TASKLESS = {"jobs", "scanning", "signals", "strategies", "runs", "comparison", "reporting"}
"""Rooms that serve every task: they name none."""


def code_words(path):
    """Identifiers, imports and texts of a file, its docstrings left out."""
    tree = ast.parse(path.read_text())
    documented = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, documented) and node.body and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            if id(node) not in docstrings:
                yield node.value
        elif isinstance(node, ast.Name):
            yield node.id
        elif isinstance(node, ast.Attribute):
            yield node.attr
    yield from imports(path)


OF_LIBRARIES = re.compile(r"auxiliary classification|semantic segmentation|object detection")
"""Heads and networks of other libraries by their own names, in messages."""


@pytest.mark.parametrize("room", sorted(TASKLESS | {"models"}))
def test_rooms_that_serve_every_task_name_none(room):
    named = []
    for path in (ROOT / room).rglob("*.py"):
        for word in code_words(path):
            said = OF_LIBRARIES.sub("", word)
            if any(re.search(rf"\b{name}\b", said, re.IGNORECASE) for name in TASKS):
                named.append((str(path.relative_to(ROOT)), word))
    # Checkpoints from before there was a second task do not say theirs.
    assert named == ([("models/spec.py", DEFAULT_TASK)] if room == "models" else [])


def test_help_needs_no_torch():
    """What the command line imports before a command runs, torch is not among it."""
    heavy = {"torch", "numpy", "cv2", "pydantic", "matplotlib"}
    seen, waiting = set(), [ROOT / "cli.py"]
    while waiting:
        path = waiting.pop()
        tree = ast.parse(path.read_text())
        for node in tree.body:
            names = []
            if isinstance(node, ast.ImportFrom) and node.module:
                names = [node.module, *(f"{node.module}.{n.name}" for n in node.names)]
            elif isinstance(node, ast.Import):
                names = [n.name for n in node.names]
            for name in names:
                assert name.split(".")[0] not in heavy, f"{path} imports {name}"
                file = ROOT.parent / (name.replace(".", "/") + ".py")
                if name.startswith("segal.") and file.is_file() and file not in seen:
                    seen.add(file)
                    waiting.append(file)
    assert ROOT / "commands" / "select.py" in seen
