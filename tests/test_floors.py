"""The map of ARCHITECTURE.md, enforced: imports go down only, and each third party has one door.

    1 types trees canonical   2 process nets training data   3 denoise exact
    4 losses samplers guidance   6 pretrained   7 cli
    5 inverse editing finetune distillation pipelines metrics experiment

`violations(path, source)` judges one file. It works on text, so that the rules are tested on
snippets which break them.
"""

import ast
import pathlib
import sys
from collections.abc import Iterator
from typing import NamedTuple

import pytest

_ROOT = pathlib.Path(__file__).resolve().parent.parent

_FLOORS = {
    1: {"types", "trees", "canonical"},
    2: {"process", "nets", "training", "data"},
    3: {"denoise", "exact"},
    4: {"losses", "samplers", "guidance"},
    5: {
        "inverse",
        "editing",
        "finetune",
        "distillation",
        "pipelines",
        "metrics",
        "experiment",
    },
    6: {"pretrained"},
    7: {"cli"},
}
_FLOOR = {name: floor for floor, names in _FLOORS.items() for name in names}
# What is a file; the rest are folders.
_FILES = {"types", "trees", "canonical", "exact"}
# It puts its own floor together, so it may look sideways; nobody of its floor may look at it.
_ASSEMBLER = "experiment"

_NOBODY_IMPORTS = {"cli", "configs", "experiments"}
# Everyone else takes a network as a function.
_IMPORT_NETS = {"pretrained", "experiment", "cli"}

# A third party that is not in this table is not a dependency of the project.
_ANYWHERE = {"jax", "jaxtyping", "numpy", "optax", "chex"}
_DOORS = {
    "diffrax": ("jaxdiff/samplers/continuous/",),
    "equinox": ("jaxdiff/samplers/continuous/",),
    "flax": ("jaxdiff/nets/",),
    "grain": ("jaxdiff/data/",),
    "huggingface_hub": ("jaxdiff/pretrained/hub.py",),
    "lineax": ("jaxdiff/samplers/continuous/",),  # with diffrax, which brings it
    "matplotlib": ("jaxdiff/cli/",),
    "ml_dtypes": ("jaxdiff/pretrained/",),  # numpy's bfloat16, with jax, which brings it
    "ml_collections": ("configs/", "jaxdiff/experiment/", "jaxdiff/cli/"),
    "orbax": ("jaxdiff/training/checkpoint.py",),
    "PIL": ("jaxdiff/data/", "jaxdiff/metrics/", "jaxdiff/cli/"),
    "safetensors": ("jaxdiff/pretrained/",),
    "tensorboardX": ("jaxdiff/training/",),
    "tensorflow_datasets": ("jaxdiff/data/",),
    "torch": ("jaxdiff/pretrained/",),
    "tokenizers": ("jaxdiff/pretrained/",),
    "tqdm": ("jaxdiff/training/", "jaxdiff/cli/"),
}
_ONLY_IN_FUNCTIONS = {"torch"}


class Import(NamedTuple):
    """One imported module: its full dotted name, its line, and whether it is inside a function."""

    name: str
    line: int
    nested: bool


def _from_names(node: ast.ImportFrom, package: list[str]) -> list[str]:
    """The dotted names of `from x import a, b`, relative dots resolved against `package`."""
    base = package[: len(package) - node.level + 1] if node.level else []
    base = [*base, *(node.module.split(".") if node.module else [])]
    return [".".join([*base, alias.name]) for alias in node.names]


def _called_name(node: ast.Call) -> list[str]:
    """The constant argument of import_module("x") or __import__("x"); else nothing."""
    name = getattr(node.func, "attr", getattr(node.func, "id", ""))
    constant = node.args and isinstance(node.args[0], ast.Constant)
    if name not in {"import_module", "__import__"} or not constant:
        return []
    return [str(node.args[0].value)]  # pyright: ignore[reportAttributeAccessIssue]


def imports(path: str, source: str) -> Iterator[Import]:
    """Every import of a file, wherever it stands, with relative ones resolved."""
    package = list(pathlib.PurePosixPath(path).parent.parts)
    todo: list[tuple[ast.AST, bool]] = [(ast.parse(source), False)]
    while todo:
        node, nested = todo.pop()
        names: list[str] = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = _from_names(node, package)
        elif isinstance(node, ast.Call):
            names = _called_name(node)
        yield from (Import(name, getattr(node, "lineno", 0), nested) for name in names)
        inside = nested or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
        todo += [(child, inside) for child in ast.iter_child_nodes(node)]


def _room(path: str) -> str:
    """The folder or file of floor 1 to 7 that a path is in: jaxdiff/nets/unet.py -> nets."""
    return pathlib.PurePosixPath(path).parts[1].removesuffix(".py")


def _internal(room: str, target: str) -> str | None:
    """Why a file of `room` may not import `target`, a room of the package; None where it may."""
    if target == room:
        return None
    if target in _NOBODY_IMPORTS:
        return f"nothing imports {target}"
    if target not in _FLOOR:
        return f"jaxdiff.{target} is not on the map: import from the module that holds the name"
    if target == "nets" and room not in _IMPORT_NETS:
        return f"{room} may not know nets: take the network as a function"
    if _FLOOR[target] > _FLOOR[room]:
        return f"{room} (floor {_FLOOR[room]}) imports up: {target} (floor {_FLOOR[target]})"
    sideways = _FLOOR[target] == _FLOOR[room] and _FLOOR[room] in {2, 4, 5}
    if sideways and room != _ASSEMBLER:
        return f"{room} imports sideways: {target} (both floor {_FLOOR[room]})"
    return None


def _external(path: str, found: Import) -> str | None:
    """Why `path` may not import this third party at this place; None where it may."""
    top = found.name.partition(".")[0]
    if top in sys.stdlib_module_names or top in _ANYWHERE:
        return None
    if top not in _DOORS:
        return f"{top} is no dependency of the project"
    if not any(path == door or (door[-1] == "/" and path.startswith(door)) for door in _DOORS[top]):
        return f"{top} has its own door: {', '.join(_DOORS[top])}"
    if top in _ONLY_IN_FUNCTIONS and not found.nested:
        return f"{top} is imported inside functions only"
    return None


def _front_desk(found: Import, source: str) -> str | None:
    """jaxdiff/__init__.py: nothing but the standard library, except for the type checker."""
    guarded = [
        node
        for node in ast.parse(source).body
        if isinstance(node, ast.If) and ast.unparse(node.test).endswith("TYPE_CHECKING")
    ]
    if any(node.lineno <= found.line <= (node.end_lineno or 0) for node in guarded):
        return None
    if found.name.partition(".")[0] in sys.stdlib_module_names:
        return None
    return f"jaxdiff/__init__.py is lazy: {found.name} belongs in its table"


def _why(path: str, source: str, found: Import) -> str | None:
    """Why this import of this file breaks a rule; None where it breaks none."""
    if path == "jaxdiff/__init__.py":
        return _front_desk(found, source)
    top, _, rest = found.name.partition(".")
    if top in _NOBODY_IMPORTS:
        return f"nothing imports {top}"
    if not path.startswith("jaxdiff/"):
        return None if top == "jaxdiff" else _external(path, found)
    if top != "jaxdiff":
        return _external(path, found)
    if not rest:
        return "a module of the package imports the module it means, not jaxdiff"
    return _internal(_room(path), rest.partition(".")[0])


def violations(path: str, source: str) -> list[str]:
    """What a file breaks, one line each. `path` is relative to the repository, with slashes."""
    inside = path.startswith("jaxdiff/") and path != "jaxdiff/__init__.py"
    if inside and _room(path) not in _FLOOR:
        return [f"{path}: {_room(path)} is not on the map: give it a floor in tests/test_floors.py"]
    whys = ((found.line, _why(path, source, found)) for found in imports(path, source))
    return [f"{path}:{line}: {why}" for line, why in sorted(whys, key=lambda at: at[0]) if why]


def _sources() -> list[str]:
    """The Python files of the package and the configs."""
    found = [*(_ROOT / "jaxdiff").rglob("*.py"), *(_ROOT / "configs").rglob("*.py")]
    return sorted(file.relative_to(_ROOT).as_posix() for file in found)


@pytest.mark.parametrize("path", _sources())
def test_the_file_keeps_the_floors(path):
    assert violations(path, (_ROOT / path).read_text()) == []


def test_every_folder_is_on_the_map():
    """A folder of the package without Python files is looked at too; and files are no folders."""
    rooms = {p.name.removesuffix(".py"): p for p in (_ROOT / "jaxdiff").glob("[!_.]*")}
    rooms = {name: p for name, p in rooms.items() if p.is_dir() or p.suffix == ".py"}
    assert set(rooms) <= set(_FLOOR)
    assert {name for name, p in rooms.items() if p.is_file()} <= _FILES


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("jaxdiff/trees.py", "from jaxdiff.types import PyTree"),
        (
            "jaxdiff/samplers/loop.py",
            "from jaxdiff.denoise import Denoiser\nimport jax.numpy as jnp",
        ),
        ("jaxdiff/samplers/loop.py", "from jaxdiff.samplers.state import State"),
        ("jaxdiff/samplers/loop.py", "from .state import State\nfrom ..process import times"),
        ("jaxdiff/samplers/continuous/solve.py", "import diffrax"),
        ("jaxdiff/exact.py", "from jaxdiff.denoise import Estimate"),
        ("jaxdiff/experiment/build.py", "from jaxdiff import nets, inverse\nimport ml_collections"),
        ("jaxdiff/cli/sample.py", "from jaxdiff import experiment\nfrom PIL import Image"),
        ("jaxdiff/pretrained/hub.py", "from jaxdiff.nets import unet"),
        (
            "jaxdiff/pretrained/hub.py",
            "def read(path):\n    import torch\n    return torch.load(path)",
        ),
        ("jaxdiff/training/checkpoint.py", "import orbax.checkpoint as ocp"),
        (
            "jaxdiff/__init__.py",
            "import typing\nif typing.TYPE_CHECKING:\n    from jaxdiff import nets",
        ),
        ("configs/two_moons.py", "from ml_collections import config_dict"),
    ],
)
def test_what_is_allowed_passes(path, source):
    assert violations(path, source) == []


@pytest.mark.parametrize(
    ("path", "source", "why"),
    [
        ("jaxdiff/process/vp.py", "from jaxdiff.denoise import model", "imports up"),
        ("jaxdiff/types.py", "from jaxdiff import process", "imports up"),
        ("jaxdiff/denoise/door.py", "def f():\n    from jaxdiff.samplers import run", "imports up"),
        ("jaxdiff/process/vp.py", "from ..samplers import run", "imports up"),
        ("jaxdiff/process/vp.py", "from .. import guidance", "imports up"),
        ("jaxdiff/data/toys.py", "import jaxdiff.process.vp", "sideways"),
        ("jaxdiff/losses/kernel.py", "from jaxdiff.guidance import cg", "sideways"),
        ("jaxdiff/inverse/pigdm.py", "from jaxdiff import metrics", "sideways"),
        ("jaxdiff/inverse/pigdm.py", "from jaxdiff import experiment", "sideways"),
        ("jaxdiff/training/step.py", "from jaxdiff.nets import unet", "may not know nets"),
        ("jaxdiff/denoise/door.py", "from jaxdiff.nets import unet", "may not know nets"),
        (
            "jaxdiff/inverse/pigdm.py",
            "import importlib\nimportlib.import_module('jaxdiff.cli')",
            "cli",
        ),
        ("jaxdiff/experiment/build.py", "from jaxdiff import cli", "nothing imports cli"),
        ("jaxdiff/cli/sample.py", "from configs import two_moons", "nothing imports configs"),
        ("jaxdiff/cli/sample.py", "import experiments.speed", "nothing imports experiments"),
        ("jaxdiff/inverse/pigdm.py", "import jaxdiff as jd", "the module it means"),
        ("jaxdiff/inverse/pigdm.py", "from jaxdiff import sample", "not on the map"),
        ("jaxdiff/utils.py", "", "not on the map"),
        ("jaxdiff/helpers/a.py", "", "not on the map"),
        ("jaxdiff/samplers/loop.py", "import diffrax", "own door"),
        ("jaxdiff/training/step.py", "from orbax import checkpoint", "own door"),
        ("jaxdiff/training/step.py", "from flax import nnx", "own door"),
        ("jaxdiff/samplers/loop.py", "from tqdm import tqdm", "own door"),
        ("jaxdiff/inverse/pigdm.py", "from PIL import Image", "own door"),
        ("jaxdiff/data/folder.py", "import ml_collections", "own door"),
        ("jaxdiff/nets/vae.py", "def f():\n    import torch", "own door"),
        ("jaxdiff/pretrained/hub.py", "import torch", "inside functions"),
        ("jaxdiff/metrics/fid.py", "import sklearn", "no dependency"),
        ("jaxdiff/__init__.py", "from jaxdiff.denoise import model", "lazy"),
        ("jaxdiff/__init__.py", "import jax", "lazy"),
        ("configs/two_moons.py", "import flax", "own door"),
    ],
)
def test_what_is_forbidden_is_caught(path, source, why):
    found = violations(path, source)
    assert len(found) == 1
    assert why in found[0]
    assert found[0].startswith(path)
