"""Summary of a run for a terminal: facts, settings and the build in service in, a few lines out."""

import os
import shlex
import sys
from pathlib import Path

from likeness.core import uris
from likeness.core.errors import LikenessError
from likeness.core.formatting import duration, pluralize
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.index.incremental import UNCHANGED
from likeness.index.manifest import Manifest
from likeness.ops.reports.build_figures import worst_shard
from likeness.ops.reports.figures import build_changes
from likeness.ops.reports.samples import id_map
from likeness.storage.run_facts import RunFacts, StageFacts

_TRIES = 100


def summary(facts: RunFacts, settings: Settings, manifest: Manifest) -> str:
    """What a run did, where its report is, and a search to try next; a line each."""
    worst = worst_shard(manifest)
    timed = [stage for stage in facts.ran() if stage.counts("seconds")]
    each = ", ".join(f"{stage.stage().replace('_', ' ')} {duration(stage.seconds)}" for stage in timed)
    lines = {
        "photos": _counts(facts.ingest, "listed", "new", "existing", "rejected", "withdrawn"),
        "extract": _counts(facts.extract, "pending", "extracted", "failed"),
        "load": _counts(facts.load, "vectors", "products", "deleted"),
        "time": f"{each}; {duration(sum(stage.seconds for stage in timed))} in all",
        "build": _build(facts, manifest),
        "recall": f"{worst.lowest:.3f} (recall@{worst.recall.k} of the worst shard, "
        f"{worst.number}: {worst.description})",
        "failures": _failures(facts, settings.root),
        "report": display_path(uris.join(settings.root, "reports", "latest.html")),
        "try": search_command(settings, manifest),
    }
    return "\n".join(f"{name:<9} {_printable(line)}" for name, line in lines.items() if line)


def display_path(uri: str) -> str:
    """A local path as people type it, relative if it is below the working folder; another URI as it is."""
    if uris.scheme(uri) != "file":
        return uri
    path = uris.local_path(uri)
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)


def search_command(settings: Settings, manifest: Manifest) -> str:
    """A search command that works as it stands, with a photo of the build if one is in a file of its own."""
    photo = _photo(Builds.open(settings), manifest)
    words = [_program(), "search", photo, "--root", settings.root]
    if settings.extract.weights:  # without them the encoder would refuse the build's space
        words += ["--set", f"extract.weights={settings.extract.weights}"]
    return shlex.join(words)


def _program() -> str:
    folder = Path(sys.prefix, "bin")
    program = folder / "likeness"
    return "likeness" if str(folder) in os.get_exec_path() or not program.exists() else display_path(str(program))


def _photo(builds: Builds, manifest: Manifest) -> str:
    """A photo's path; PHOTO if all photos tried are in containers or deleted."""
    try:
        rows = id_map(builds, manifest, manifest.shards[0])["shown"].slice(0, _TRIES).to_pylist()
        photo_uris = [one["uri"] for row in rows for one in row]
    except LikenessError:
        return "PHOTO"
    local = (uris.local_path(uri) for uri in photo_uris if uris.scheme(uri) == "file")
    return next((display_path(str(path)) for path in local if path.is_file()), "PHOTO")


def _counts(stage: StageFacts | None, *names: str) -> str:
    """The counts that a stage has set."""
    return ", ".join(f"{getattr(stage, name):,} {name}" for name in names if stage and stage.counts(name))


def _build(facts: RunFacts, manifest: Manifest) -> str:
    if facts.publish and facts.publish.pinned:
        return (
            f"{facts.publish.unpublished} is not published: a rollback pinned {facts.publish.pinned}; "
            "`./spark-submit.sh publish` publishes it, `likeness rollback --release` ends the pin"
        )
    verb = "stays" if facts.index and facts.index.step == UNCHANGED else "is"
    images, shards = pluralize(manifest.images, "image"), pluralize(len(manifest.shards), "shard")
    return f"{manifest.path} {verb} in service: {images} in {shards}{build_changes(facts)}"


def _failures(facts: RunFacts, root: str) -> str:
    rejected = facts.ingest.rejected if facts.ingest else 0
    failed = facts.extract.standing_failures if facts.extract else 0
    command = shlex.join([_program(), "failures", "list", "--root", root])
    return f"{pluralize(rejected + failed, 'photo')} left out; reasons: {command}" if rejected + failed else ""


def _printable(text: str) -> str:
    """Replaces control characters: names come from the catalogue, and a terminal would obey them."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
