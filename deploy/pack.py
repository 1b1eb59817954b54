"""Packs the environment of this project into an archive that YARN unpacks for each container.

`.venv/bin/python deploy/pack.py OUT.tar.gz` packs the project and the packages that it needs. Each machine also needs
this Python at the same path. PySpark is shipped with each application.
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
    sys.exit("error: this Python is not the one of the environment; run this with .venv/bin/python")

PROJECT = Path(__file__).resolve().parent.parent
SITE = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
EXTRAS = ("extract", "hadoop", "index", "spark")
ALWAYS_EXCLUDED = ("pyspark",)


def needed(without: Iterable[str]) -> list[importlib.metadata.Distribution]:
    """The distributions that the project needs, directly and indirectly, except for some.

    Raises:
        ImportError: a distribution is not installed in this environment.
    """
    excluded = {canonicalize_name(name) for name in (*without, *ALWAYS_EXCLUDED)}
    distributions: dict[str, importlib.metadata.Distribution] = {}
    followed: set[tuple[str, str]] = set()
    queue = list(_project_requirements())
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        if name in excluded:
            continue
        if name not in distributions:
            distributions[name] = importlib.metadata.distribution(requirement.name)
        for extra in {"", *requirement.extras}:
            if (name, extra) not in followed:
                followed.add((name, extra))
                queue += _applicable(distributions[name].requires or (), extra)
    return list(distributions.values())


def _applicable(texts: Iterable[str], extra: str) -> list[Requirement]:
    """The requirements that apply to this machine, with an extra."""
    requirements = map(Requirement, texts)
    return [each for each in requirements if not each.marker or each.marker.evaluate({"extra": extra})]


def _project_requirements() -> list[Requirement]:
    project = tomllib.loads((PROJECT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    return _applicable([*project["dependencies"], *(text for name in EXTRAS for text in extras[name])], "")


def pack(out: Path, without: Iterable[str]) -> int:
    """Writes the archive; returns the number of its distributions."""
    count, draft = 0, out.with_name(f".{out.name}.draft")
    try:
        with tarfile.open(draft, "w:gz", compresslevel=1) as archive:
            _add_python(archive)
            archive.add(PROJECT / "lib" / "likeness", f"{SITE}/likeness", filter=_without_caches)
            for distribution in needed(without):
                for file in distribution.files or ():
                    path = Path(str(distribution.locate_file(file)))
                    if ".." not in file.parts and "__pycache__" not in file.parts and path.is_file():
                        archive.add(path, f"{SITE}/{file}", recursive=False)
                count += 1
        draft.replace(out)
    finally:
        draft.unlink(missing_ok=True)
    return count


def _add_python(archive: tarfile.TarFile) -> None:
    """Adds bin/python, a link to the interpreter of each machine, and pyvenv.cfg, which makes it an environment."""
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
    """Packs, and prints how to use the archive."""
    parser = argparse.ArgumentParser(description="Pack this project's environment for YARN.")
    parser.add_argument("out", type=Path, metavar="OUT.tar.gz")
    parser.add_argument(
        "--without",
        nargs="+",
        default=[],
        metavar="NAME",
        help="exclude a package and what only it needs; with extract.runtime=openvino executors need no torch",
    )
    arguments = parser.parse_args()
    try:
        count = pack(arguments.out, arguments.without)
    except (ImportError, OSError) as error:
        print(f"error: {error}; run this with .venv/bin/python", file=sys.stderr)
        return 1
    size = arguments.out.stat().st_size / 1e6
    print(f"{arguments.out}: {count} packages, {size:.0f} MB; copy it to HDFS and run jobs with:")
    print("  LIKENESS_ARCHIVE=hdfs:///envs/likeness.tar.gz ./spark-submit.sh nightly ... -- --master yarn")
    return 0


if __name__ == "__main__":
    sys.exit(main())
