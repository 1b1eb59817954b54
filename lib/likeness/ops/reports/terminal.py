"""The end of a run on a terminal: facts, settings and the build in service in, a few lines out."""

import os
import shlex
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from likeness.core import uris
from likeness.core.errors import LikenessError
from likeness.core.formatting import duration, pluralize
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard_plan import UNCHANGED
from likeness.ops.reports import figures
from likeness.ops.reports.samples import id_map
from likeness.storage.run_facts import RunFacts

_TRIES = 100


def summary(run_facts: RunFacts, settings: Settings, manifest: Manifest) -> str:
    """What a run did, where its report is, and what to try next."""
    facts, worst = run_facts.dump(), figures.worst_shard(manifest)
    timed = {name: told["seconds"] for name, told in facts.items() if name != "version" and "seconds" in told}
    each = ", ".join(f"{name} {duration(seconds)}" for name, seconds in timed.items())
    lines = {
        "photos": _told(facts, "ingest", "listed", "new", "existing", "rejected", "withdrawn"),
        "extract": _told(facts, "extract", "pending", "extracted", "failed"),
        "load": _told(facts, "load", "vectors", "products", "deleted"),
        "time": f"{each}; {duration(sum(timed.values()))} in all",
        "build": _build(facts, manifest),
        "recall": f"{worst.lowest:.3f} at {worst.recall.k} in the worst shard ({worst.number}, {worst.told})",
        "failures": _failures(facts, settings.root),
        "report": shown(uris.join(settings.root, "reports", "latest.html")),
        "try": search_command(settings, manifest),
    }
    return "\n".join(f"{name:<9} {_plain(line)}" for name, line in lines.items() if line)


def shown(place: str) -> str:
    """A local path as a person would type it, from the working folder where it is below; another URI as it is."""
    if uris.scheme(place) != "file":
        return place
    path = uris.local_path(place)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def search_command(settings: Settings, manifest: Manifest) -> str:
    """A search that works as it stands, with a photo of the build if one lies in a file of its own."""
    photo = _photo(Builds(settings.root, settings.extract.cache), manifest)
    words = [_program(), "search", photo, "--root", settings.root]
    if settings.extract.weights:  # without them the encoder would refuse the build's space
        words += ["--set", f"extract.weights={settings.extract.weights}"]
    return shlex.join(words)


def _program() -> str:
    folder = Path(sys.prefix, "bin")
    program = folder / "likeness"
    return "likeness" if str(folder) in os.get_exec_path() or not program.exists() else shown(str(program))


def _photo(builds: Builds, manifest: Manifest) -> str:
    """A photo's path; PHOTO if all that were tried are packed in containers or gone."""
    try:
        rows = id_map(builds, manifest, manifest.shards[0])["shown"].slice(0, _TRIES).to_pylist()
        places = [one["uri"] for row in rows for one in row]
    except LikenessError:
        return "PHOTO"
    local = (uris.local_path(place) for place in places if uris.scheme(place) == "file")
    return next((shown(str(path)) for path in local if path.is_file()), "PHOTO")


def _told(facts: Mapping[str, Mapping[str, Any]], stage: str, *names: str) -> str:
    told = facts.get(stage, {})
    return ", ".join(f"{told[name]:,} {name}" for name in names if name in told)


def _build(facts: Mapping[str, Mapping[str, Any]], manifest: Manifest) -> str:
    stays = "stays" if facts.get("index", {}).get("step") == UNCHANGED else "is"
    images, shards = pluralize(manifest.images, "image"), pluralize(len(manifest.shards), "shard")
    return f"{manifest.path} {stays} in service: {images} in {shards}{figures.night(facts)}"


def _failures(facts: Mapping[str, Mapping[str, Any]], root: str) -> str:
    lost = facts.get("ingest", {}).get("rejected", 0) + facts.get("extract", {}).get("standing_failures", 0)
    command = shlex.join([_program(), "failures", "list", "--root", root])
    return f"{pluralize(lost, 'photo')} left out; why: {command}" if lost else ""


def _plain(text: str) -> str:
    """Without what a terminal would obey: names come from the catalogue."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
