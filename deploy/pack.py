"""Packs the environment of this project into an archive that YARN unpacks beside each container.

`.venv/bin/python deploy/pack.py OUT.tar.gz` takes what the project needs, and the project itself. Each machine
still needs this Python at the same place. Spark's own Python comes with each application.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import io
import sys
import tarfile
import tomllib
from collections.abc import Iterable
from pathlib import Path

try:
    from packaging.requirements import Requirement
    from packaging.utils import canonicalize_name
except ImportError:
    sys.exit("error: this Python is not the environment's own; start this with .venv/bin/python")

PROJECT = Path(__file__).resolve().parent.parent
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
EXTRAS = ("extract", "hadoop", "index", "spark")
ALWAYS_WITHOUT = ("pyspark",)


def needed(without: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The distributions that the project needs, and those that they need, but for some.

    Raises:
        ImportError: one of them is not installed in this environment.
    """
    left_out = {canonicalize_name(name) for name in (*without, *ALWAYS_WITHOUT)}
    found: dict[str, importlib.metadata.Distribution] = {}
    followed: set[tuple[str, str]] = set()
    waiting = list(_of_the_project())
    while waiting:
        wanted = waiting.pop()
        name = canonicalize_name(wanted.name)
        if name in left_out:
            continue
        if name not in found:
            found[name] = importlib.metadata.distribution(wanted.name)
        for extra in {"", *wanted.extras}:
            if (name, extra) not in followed:
                followed.add((name, extra))
                waiting += _applying(found[name].requires or (), extra)
    return list(found.values())


def _applying(texts: Iterable[str], extra: str) -> list[Requirement]:
    """The requirements that hold on this machine, with an extra."""
    wanted = map(Requirement, texts)
    return [one for one in wanted if not one.marker or one.marker.evaluate({"extra": extra})]


def _of_the_project() -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return _applying([*project["dependencies"], *(text for name in EXTRAS for text in extras[name])], "")


def pack(out: Path, without: Iterable[str]) -> int:
    """Writes the archive; returns how many distributions it holds."""
    count, draft = 0, out.with_name(f".{out.name}.draft")
    try:
        with tarfile.open(draft, "w:gz", compresslevel=1) as archive:
            _add_python(archive)
            archive.add(PROJECT / "lib" / "likeness", f"{SITE}/likeness", filter=_without_caches)
            for found in needed(without):
                for file in found.files or ():
                    path = Path(str(found.locate_file(file)))
                    if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                        archive.add(path, f"{SITE}/{file}", recursive=False)
                count += 1
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _add_python(archive: tarfile.TarFile) -> None:
    """bin/python, a link to the interpreter that each machine has, and the file that makes it an environment."""
    home = Path(sys.base_prefix) / "bin" / f"python{sys.version_info.major}.{sys.version_info.minor}"
    link = tarfile.TarInfo("bin/python")
    link.type, link.linkname = tarfile.SYMTYPE, str(home)
    archive.addfile(link)
    text = f"home = {home.parent}\ninclude-system-site-packages = false\n".encode()
    file = tarfile.TarInfo("pyvenv.cfg")
    file.size = len(text)
    archive.addfile(file, io.BytesIO(text))


def _without_caches(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if "__pycache__" in entry.name else entry


def main() -> int:
    """One command."""
    parser = argparse.ArgumentParser(description="Pack this project's environment for YARN.")
    parser.add_argument("out", type=Path, metavar="OUT.tar.gz")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="NAME",
        help="leave a package out, with what only it needs; where OpenVINO extracts, executors need no torch",
    )
    given = parser.parse_args()
    try:
        count = pack(given.out, given.without)
    except (ImportError, OSError) as error:
        print(f"error: {error}; start this with the environment's own Python, .venv/bin/python", file=sys.stderr)
        return 1
    print(f"{given.out}: {count} packages, {given.out.stat().st_size / 1e6:.0f} MB; put it on HDFS and name it:")
    print("  LIKENESS_ARCHIVE=hdfs:///envs/likeness.tar.gz ./spark-submit.sh nightly ... -- --master yarn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
