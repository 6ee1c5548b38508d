"""The public face, and who may import whom."""

import ast
import subprocess
import sys
import tomllib
import types
from importlib.resources import files
from pathlib import Path

import pytest

import ropekern

ROOT = Path(__file__).parents[1]

# frequencies <- cache <- backends <- ops <- rotary <- __init__; errors is a leaf, compilation stands beside ops
MAY_IMPORT = {
    "errors": set(),
    "knobs": set(),
    "frequencies": set(),
    "cache": {"frequencies"},
    "backends": set(),
    "backends.native": {"cache", "errors"},
    "backends.triton": {"backends.triton_kernel", "backends.triton_launch", "errors", "knobs"},
    "backends.triton_kernel": set(),
    "backends.triton_launch": set(),
    "backends.flashinfer": {"cache", "errors"},
    "checks": set(),
    "ops": {"checks", "errors", "knobs", "backends.native", "backends.triton", "backends.flashinfer"},
    "library": {"errors", "ops"},
    "compilation": {"backends.triton", "backends.triton_kernel", "errors"},
    "rotary": {"cache", "checks", "ops"},
    "": {"cache", "compilation", "errors", "knobs", "library", "ops", "rotary"},
}
STAND_ALONE = ("gpu", "presets", "statistics", "timing")  # modules of benchmarks that import nothing of ours
DOOR = "subject"  # the one module of benchmarks that reaches ropekern
EVERYWHERE = sys.stdlib_module_names | {"torch", "numpy", "benchmarks"}  # what asv's bare environments have


def modules(package):
    """dotted name inside the package -> syntax tree."""
    root = ROOT / package
    names = {path: path.relative_to(root).with_suffix("").as_posix().replace("/", ".") for path in root.rglob("*.py")}
    return {
        name.removesuffix("__init__").removesuffix("."): ast.parse(path.read_text()) for path, name in names.items()
    }


def imports(tree, known):
    """Full names of all modules imported anywhere under a node; `from a import b` is a.b where that is a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative import"
            names = (f"{node.module}.{alias.name}" for alias in node.names)
            yield from (name if name in known else node.module for name in names)


def at_import_time(node):
    """The imports that must work when the module is imported: not those in functions, of type checkers, or let fail."""
    if isinstance(node, ast.Import | ast.ImportFrom):
        yield node
    elif isinstance(node, ast.With | ast.Try) and "ImportError" in ast.unparse(node):
        return
    elif not isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda):
        guarded = isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test)
        for child in node.orelse if guarded else ast.iter_child_nodes(node):
            yield from at_import_time(child)


PACKAGE, RULER = modules("ropekern"), modules("benchmarks")
KNOWN = {f"{package}.{name}" for package, trees in (("ropekern", PACKAGE), ("benchmarks", RULER)) for name in trees}


def test_all_is_what_is_there():
    public = {
        name for name, value in vars(ropekern).items() if name[0] != "_" and not isinstance(value, types.ModuleType)
    }
    assert sorted(public) == ropekern.__all__


def test_public_names_are_documented():
    for name in ropekern.__all__:
        assert name == "BACKENDS" or getattr(ropekern, name).__doc__, name


def test_version():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert ropekern.__version__ == project["version"]


def test_types_are_shipped():
    assert files("ropekern").joinpath("py.typed").is_file()
    build = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["hatch"]["build"]
    assert build["targets"]["wheel"] == {"packages": ["ropekern"]}


def test_import_needs_neither_triton_nor_flashinfer_nor_a_gpu():
    program = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("triton", "flashinfer"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Absent())
import torch, ropekern
assert not torch.cuda.is_initialized()
assert not {"triton", "flashinfer", "ropekern.backends.triton"} & set(sys.modules)
query = torch.ones(1, 1, 64)
table = ropekern.compute_cos_sin_cache(64, 16)
ropekern.apply_rope_(torch.tensor([3]), query, None, table)
assert not (query == 1).all()
for backend in ("triton", "flashinfer"):
    try:
        ropekern.apply_rope_(torch.tensor([3]), query, None, table, backend=backend)
    except ropekern.UnsupportedError as error:
        assert f"{backend!r} cannot be imported: No module named {backend!r}" in str(error), error
    else:
        raise AssertionError(backend)
assert not torch.cuda.is_initialized()
print(ropekern.__file__)
"""
    result = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    assert Path(result.stdout.strip()) == Path(ropekern.__file__)


def test_every_module_of_the_package_has_a_rule():
    assert set(PACKAGE) == set(MAY_IMPORT)


@pytest.mark.parametrize("name", MAY_IMPORT)
def test_package_imports(name):
    found = set(imports(PACKAGE[name], KNOWN))
    ours = {x.removeprefix("ropekern").removeprefix(".") for x in found if x.partition(".")[0] == "ropekern"}
    assert ours <= MAY_IMPORT[name]
    assert not any(x.partition(".")[0] == "benchmarks" for x in found)


@pytest.mark.parametrize("name", RULER)
def test_ruler_imports(name):
    found = set(imports(RULER[name], KNOWN))
    ropekern_names = {x for x in found if x.partition(".")[0] == "ropekern"}
    assert ropekern_names <= ({"ropekern"} if name == DOOR else set()), "only public names, only in subject"
    if name in STAND_ALONE:
        assert not any(x.partition(".")[0] == "benchmarks" for x in found)
    for statement in at_import_time(RULER[name]):
        assert {x.partition(".")[0] for x in imports(statement, KNOWN)} <= EVERYWHERE, ast.unparse(statement)


def test_the_door_is_used():
    """The rules above see an import where there is one."""
    assert "ropekern" in set(imports(RULER[DOOR], KNOWN))
    assert "benchmarks.workload" in set(imports(RULER["check"], KNOWN))
    assert [ast.unparse(x) for x in at_import_time(RULER["gpu"])] == ["import ctypes", "from functools import cache"]
