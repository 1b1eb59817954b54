"""Clients that other people's generators make from the contract: each uploads a photo to a service that listens."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import requests

CLIENTS = Path(__file__).parent / "clients"
OPENAPI_GENERATOR = "org.openapitools:openapi-generator-cli:7.25.0"
MISSING = [tool for tool in ("java", "mvn", "node", "npm") if shutil.which(tool) is None]
pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # it installs the generators first
    pytest.mark.skipif(bool(MISSING) and not os.environ.get("CI"), reason=f"no {', '.join(MISSING)}: apt-get install"),
]


def run(*command: str | Path, cwd: Path, **variables: str) -> str:
    """What a command says on standard output."""
    environment = {**os.environ, **variables}
    done = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True, timeout=1200, check=False)
    assert done.returncode == 0, f"{command}: {done.stdout[-3000:]}{done.stderr[-3000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def contract(address: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The contract of the service that listens, as a file."""
    file = tmp_path_factory.mktemp("contract") / "openapi.json"
    file.write_bytes(requests.get(f"{address}/v1/openapi.json", timeout=30).content)
    return file


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Python of its own: the generator wants other versions of some libraries than the project."""
    folder = tmp_path_factory.mktemp("python")
    run(sys.executable, "-m", "venv", folder, cwd=folder)
    run(folder / "bin" / "python", "-m", "pip", "install", "-q", "-r", CLIENTS / "requirements.txt", cwd=folder)
    return folder / "bin" / "python"


@pytest.fixture(scope="module")
def node_modules(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("node")
    shutil.copy(CLIENTS / "package.json", folder)
    run("npm", "install", "--no-package-lock", "--no-audit", "--no-fund", "--loglevel=error", cwd=folder)
    return folder / "node_modules"


@pytest.fixture(scope="module")
def openapi_generator(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("jars")
    goal = ("dependency:copy", f"-Dartifact={OPENAPI_GENERATOR}", f"-DoutputDirectory={folder}")
    run("mvn", "-q", "-B", *goal, cwd=folder)
    (jar,) = folder.glob("*.jar")
    return jar


def says_what_is_near(printed: str, photo: Path) -> None:
    """The photo itself is the nearest, further ones follow, and conditions in a list have counted each by itself."""
    image_ids, similar = json.loads(printed)
    assert image_ids[0] == hashlib.sha256(photo.read_bytes()).hexdigest()
    assert (len(image_ids), similar) == (3, 2)


@pytest.fixture
def hat(sample: Path) -> Path:
    """A photo of a product that is red or green."""
    return next(path for path in sorted((sample / "hat").iterdir()) if int(path.stem, 16) % 3 < 2)


def test_openapi_python_client(address: str, contract: Path, python: Path, hat: Path, tmp_path: Path) -> None:
    config = tmp_path / "config.json"
    config.write_text(json.dumps({"content_type_overrides": {"image/jpeg": "application/octet-stream"}}))
    flags = ("--path", contract, "--output-path", tmp_path / "likeness_client", "--meta", "none", "--config", config)
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"  # it formats with the ruff that it finds there
    said = run(
        python.parent / "openapi-python-client", "generate", "--fail-on-warning", *flags, cwd=tmp_path, PATH=path
    )
    assert "warning" not in said.lower()
    command = (python, CLIENTS / "openapi_python_client.py", address, hat)
    says_what_is_near(run(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path)), hat)


def test_openapi_generator_in_python(
    address: str, contract: Path, python: Path, openapi_generator: Path, hat: Path, tmp_path: Path
) -> None:
    flags = ("-g", "python", "-i", contract, "-o", tmp_path, "--package-name", "likeness_client")
    run("java", "-jar", openapi_generator, "generate", *flags, cwd=tmp_path)
    command = (python, CLIENTS / "openapi_generator.py", address, hat)
    says_what_is_near(run(*command, cwd=tmp_path, PYTHONPATH=str(tmp_path)), hat)


def test_openapi_generator_in_typescript(
    address: str, contract: Path, node_modules: Path, openapi_generator: Path, hat: Path, tmp_path: Path
) -> None:
    run(
        "java", "-jar", openapi_generator, "generate", "-g", "typescript-fetch", "-i", contract, "-o", ".", cwd=tmp_path
    )
    says_what_is_near(compiled("openapi_generator.ts", node_modules, address, hat, tmp_path), hat)


def test_openapi_typescript(address: str, contract: Path, node_modules: Path, hat: Path, tmp_path: Path) -> None:
    shutil.copy(CLIENTS / "generate_types.mjs", tmp_path)
    (tmp_path / "node_modules").symlink_to(node_modules)
    run("node", "generate_types.mjs", contract, "contract.ts", cwd=tmp_path)
    assert "image: Blob[];" in (tmp_path / "contract.ts").read_text(encoding="utf-8")
    says_what_is_near(compiled("openapi_typescript.ts", node_modules, address, hat, tmp_path), hat)


def compiled(source: str, node_modules: Path, address: str, photo: Path, folder: Path) -> str:
    """What a program in TypeScript prints, compiled strictly beside what was generated into a folder."""
    (folder / "node_modules").unlink(missing_ok=True)
    (folder / "node_modules").symlink_to(node_modules)
    shutil.copy(CLIENTS / source, folder / "upload.ts")
    shutil.copy(CLIENTS / "tsconfig.json", folder)
    run("node", "node_modules/typescript/bin/tsc", "-p", ".", cwd=folder)
    return run("node", "out/upload.js", address, str(photo), cwd=folder)
