"""Figures of a run for its report: facts, settings, failures and snapshots in, rows of the page out. Pure."""

import functools
import re
from collections.abc import Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.formatting import duration, pluralize, size
from likeness.core.settings import Settings, setting_fields
from likeness.index.incremental import UNCHANGED
from likeness.index.manifest import Manifest
from likeness.storage.run_facts import ExtractFacts, IndexFacts, IngestFacts, RunFacts
from likeness.storage.run_history import FailureRow

_EXAMPLES = 20
_NOT_COUNTS = {"seconds", "snapshots", "fingerprint", "complete", "model", "worst", "unpublished", "pinned"}


@dataclass(frozen=True)
class CountIdentity:
    """A sum that must add up; `holds` is None if the stage did not count."""

    stage: str
    left: str
    right: str
    holds: bool | None


@dataclass(frozen=True)
class StageLine:
    """A stage: its time, that as a percentage of the longest stage's (`share`), its throughput and its counts."""

    name: str
    took: str
    share: float
    rate: str
    counts: str


@dataclass(frozen=True)
class FailureGroup:
    """The number of failures of one stage, space and reason."""

    stage: str
    space: str
    reason: str
    count: int


@dataclass(frozen=True)
class FailureSummary:
    """All failures of the ledger in groups, the largest first, with the latest examples of each group."""

    total: int
    groups: list[FailureGroup]
    examples: list[FailureRow]


@dataclass(frozen=True)
class SettingLine:
    """A setting with its value and its default."""

    key: str
    value: str
    default: str
    differs: bool
    meaning: str


def headline(facts: RunFacts, manifest: Manifest | None, in_service: str | None) -> str:
    """What happened, in a sentence or two; `in_service` is the path of the build in service after the run."""
    counts, listed = facts.ingest.counts(*IngestFacts.identity) if facts.ingest else None, ""
    if counts:
        parts = ", ".join(f"{count:,} {name}" for name, count in counts.items() if name != "listed")
        listed = f"{pluralize(counts['listed'], 'photo')} listed: {parts}. "
    if manifest is None:
        return f"{listed}Nothing is published."
    content = f"{pluralize(manifest.images, 'image')} in {pluralize(len(manifest.shards), 'shard')}"
    if manifest.path != in_service:
        pinned = facts.publish.pinned if facts.publish else ""
        stays = f" {pinned} stays in service: a rollback pinned it." if pinned else ""
        return f"{listed}Build {manifest.build} with {content} is not published.{stays}"
    if facts.index and facts.index.step == UNCHANGED:
        return f"{listed}Listings and vectors did not change: build {manifest.build} stays in service with {content}."
    return f"{listed}Build {manifest.build} is in service with {content}{build_changes(facts)}."


def build_changes(facts: RunFacts) -> str:
    """What the run added to the previous build and removed from it; empty if it built every shard anew."""
    index = facts.index
    if not index or not index.counts("added", "removed"):
        return ""
    merged = ", deltas merged" if index.step == "merge" else ""
    return f"; compared with the previous build: {index.added:,} added, {index.removed:,} removed{merged}"


def count_identities(facts: RunFacts) -> list[CountIdentity]:
    """The sums that must add up, of every stage that has one."""
    rows = []
    for kind in (IngestFacts, ExtractFacts, IndexFacts):
        left, *right = kind.identity
        stage = facts.of(kind)
        counts = stage.counts(*kind.identity) if stage else None
        named = {name: f"{name} {counts[name]:,}" if counts else name for name in kind.identity}
        holds = counts[left] == sum(counts[name] for name in right) if counts else None
        rows.append(CountIdentity(kind.stage(), named[left], " + ".join(named[name] for name in right), holds))
    return rows


def stage_lines(facts: RunFacts) -> list[StageLine]:
    """Each stage that was timed, in the order of running."""
    timed = [stage for stage in facts.ran() if stage.counts("seconds")]
    longest = max((stage.seconds for stage in timed), default=0) or 1
    rows = []
    for stage in timed:
        unit = "photos" if isinstance(stage, IngestFacts | ExtractFacts) else "vectors"
        rows.append(
            StageLine(
                name=stage.stage().replace("_", " "),
                took=duration(stage.seconds),
                share=100 * stage.seconds / longest,
                rate=f"{stage.amount / stage.seconds:,.0f} {unit}/s" if stage.amount and stage.seconds else "",
                counts=", ".join(
                    _count(name, value)
                    for name, value in stage.model_dump(exclude_unset=True).items()
                    if name not in _NOT_COUNTS
                ),
            )
        )
    return rows


def _count(name: str, value: object) -> str:
    """A count with its name; of a dict each part, of a pair its change."""
    words = name.replace("_", " ")
    if isinstance(value, dict):
        return f"{words}: " + ", ".join(_count(key, part) for key, part in value.items())
    if isinstance(value, tuple):
        return f"{words} {value[0]:,} to {value[1]:,}"
    if isinstance(value, float):
        return f"{words} {round(value, 3):,}"
    if isinstance(value, int):
        return f"{words} {size(value) if name == 'bytes' else f'{value:,}'}"
    return str(value)


def reuse_rate(facts: RunFacts) -> str:
    """The share of the photos read whose bytes were in the tables already, as a sentence."""
    new, reused = (facts.ingest.new, facts.ingest.reused) if facts.ingest else (0, 0)
    if not new + reused:
        return "Reuse rate: none, because no photo was read."
    photos = pluralize(new + reused, "photo")
    return f"Reuse rate: {reused / (new + reused):.1%} ({reused:,} of {photos} read were in the tables already)."


def failure_summary(rows: pa.Table) -> FailureSummary:
    """The ledger by stage, space and reason, with the latest examples of each.

    Args:
        rows: the rows of the table `failures`.
    """
    keys = ["stage", "space", "reason"]
    counted = rows.group_by(keys).aggregate([([], "count_all")]).rename_columns({"count_all": "count"})
    groups = [FailureGroup(**row) for row in counted.to_pylist()]
    groups.sort(key=lambda group: (-group.count, group.stage, group.space, group.reason))
    latest = rows.sort_by([("last", "descending"), ("what", "ascending")])
    each = max(1, _EXAMPLES // max(1, len(groups)))  # every reason gets its share
    examples: list[FailureRow] = []
    for group in groups[:_EXAMPLES]:
        same = functools.reduce(pc.and_, (pc.equal(latest[key], getattr(group, key)) for key in keys))
        examples += [FailureRow(**row) for row in latest.filter(same).slice(0, each).to_pylist()]
    return FailureSummary(rows.num_rows, groups, examples)


def setting_lines(settings: Settings) -> list[SettingLine]:
    """Every setting; values that may contain a password are masked."""
    rows = []
    for key, field in setting_fields().items():
        value = functools.reduce(getattr, key.split("."), settings)
        default = field.get_default(call_default_factory=True)
        rows.append(SettingLine(key, _masked(value), _masked(default), value != default, field.description or ""))
    return rows


def _masked(value: object) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}=***" for name in sorted(value))
    return re.sub(r"//[^/@\s]+@", "//***@", str(value))


def snapshot_lines(facts: RunFacts, now: Mapping[str, int | None]) -> list[tuple[str, int | None, int | None]]:
    """Each table, its snapshot when the run began, and its snapshot now."""
    before = facts.start.snapshots if facts.start else {}
    return [(name, before.get(name), after) for name, after in now.items()]
