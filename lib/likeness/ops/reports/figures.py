"""What a report says: a run's facts, its settings, its build and the failure ledger in, plain values out. Pure."""

import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from likeness.core.formatting import duration, pluralize, size
from likeness.core.settings import Settings, known_keys
from likeness.evaluation.compare_spaces import Comparison
from likeness.index.manifest import Manifest, Shard
from likeness.index.shard_plan import UNCHANGED

Facts = Mapping[str, Mapping[str, Any]]

_IDENTITIES = (
    ("ingest", "listed", ("new", "existing", "rejected")),
    ("extract", "pending", ("extracted", "failed")),
    ("index", "expected", ("vectors",)),
)
_RATES = {
    "ingest": ("read", "photos"),
    "extract": ("pending", "photos"),
    "load": ("vectors", "vectors"),
    "index": ("indexed", "vectors"),
}
_CATEGORIES, _SHARDS, _EXAMPLES = 40, 60, 20


def sentence(facts: Facts, manifest: Manifest | None, in_service: str | None) -> str:
    """What happened, in words; `in_service` is the path of the build that was put or left in service."""
    ingest, told = facts.get("ingest", {}), ""
    if "listed" in ingest:
        parts = ", ".join(f"{ingest[name]:,} {name}" for name in ("new", "existing", "rejected"))
        told = f"{pluralize(ingest['listed'], 'photo')} listed: {parts}. "
    if manifest is None:
        return f"{told}Nothing is published."
    holds = f"{pluralize(manifest.images, 'image')} in {pluralize(len(manifest.shards), 'shard')}"
    if manifest.path != in_service:
        return f"{told}Build {manifest.build} with {holds} is not published."
    if facts.get("index", {}).get("step") == UNCHANGED:
        return f"{told}Listings and vectors did not change: build {manifest.build} stays in service with {holds}."
    return f"{told}Build {manifest.build} is in service with {holds}{night(facts)}."


def night(facts: Facts) -> str:
    """What the night did to the build before; nothing where it was made whole."""
    index = facts.get("index", {})
    if "added" not in index:
        return ""
    merged = ", the deltas merged" if index["step"] == "merge" else ""
    return f"; {index['added']:,} added to the build before, {index['removed']:,} taken out{merged}"


def identities(facts: Facts) -> list[dict[str, Any]]:
    """The sums that must come out, each with whether it `holds`; None where the stage had nothing to count."""
    rows = []
    for stage, left, right in _IDENTITIES:
        told = facts.get(stage, {})
        known = left in told and all(name in told for name in right)
        rows.append(
            {
                "stage": stage,
                "left": f"{left} {told[left]:,}" if known else left,
                "right": " + ".join(f"{name} {told[name]:,}" if known else name for name in right),
                "holds": told[left] == sum(told[name] for name in right) if known else None,
            }
        )
    return rows


def stages(facts: Facts) -> list[dict[str, Any]]:
    """Each timed stage: its seconds, their share of the longest, its throughput and what it counted."""
    timed = {name: told for name, told in facts.items() if name != "version" and "seconds" in told}
    longest = max((told["seconds"] for told in timed.values()), default=0) or 1
    rows = []
    for name, told in timed.items():
        what, unit = _RATES.get(name, ("", ""))
        done, seconds = told.get(what, 0), told["seconds"]
        rows.append(
            {
                "name": name,
                "took": duration(seconds),
                "share": 100 * seconds / longest,
                "rate": f"{done / seconds:,.0f} {unit}/s" if done and seconds else "",
                "counts": ", ".join(
                    _count(key, told[key])
                    for key in told
                    if key not in ("seconds", "snapshots", "fingerprint", "complete", "model", "worst")
                ),
            }
        )
    return rows


def _count(name: str, value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return f"{name.replace('_', ' ')}: " + ", ".join(f"{key} {part:,.1f}" for key, part in value.items())
    shown = size(value) if name == "bytes" else f"{value:,}"
    return f"{name.replace('_', ' ')} {shown}"


def reuse(facts: Facts) -> str:
    """The share of the photos read whose bytes were in the tables already."""
    ingest = facts.get("ingest", {})
    new, reused = ingest.get("new", 0), ingest.get("reused", 0)
    if not new + reused:
        return "Reuse rate: none to tell, for no photo was new or found again at another place."
    told = f"{reused:,} of {pluralize(new + reused, 'photo')} read"
    return f"Reuse rate: {reused / (new + reused):.1%} ({told} had bytes that the tables hold already)."


def categories(manifest: Manifest) -> dict[str, Any]:
    """The largest categories with their share of the largest, and what is left out."""
    ranked = sorted(manifest.categories().items(), key=lambda item: (-item[1], item[0]))
    top, rest = ranked[:_CATEGORIES], ranked[_CATEGORIES:]
    return {
        "top": [{"name": name, "vectors": rows, "share": 100 * rows / max(1, top[0][1])} for name, rows in top],
        "more": len(rest),
        "more_vectors": sum(rows for _, rows in rest),
    }


def worst_shard(manifest: Manifest) -> Shard:
    """The shard of the lowest recall."""
    return min(manifest.shards, key=lambda shard: (shard.lowest, shard.number))


def shards(manifest: Manifest) -> Sequence[Shard]:
    """All shards by number; of very many, those of the lowest recall, the worst first."""
    if len(manifest.shards) <= _SHARDS:
        return sorted(manifest.shards, key=lambda shard: shard.number)
    return sorted(manifest.shards, key=lambda shard: (shard.lowest, shard.number))[:_SHARDS]


def curve(manifest: Manifest) -> dict[str, Any] | None:
    """How the largest shard that had a choice came to its index: a plot of recall against milliseconds a query.

    Places are in percent of the plot, from its lower left corner; None if every shard is searched exactly.
    """
    tried = [shard for shard in manifest.shards if shard.curve]
    if not tried:
        return None
    shard = max(tried, key=lambda one: (one.vectors, -one.number))
    least, most = min(point.recall for point in shard.curve), max(point.ms for point in shard.curve) or 1
    span = (1 - least) or 1
    points = [
        {
            "x": 100 * point.ms / most,
            "y": 100 * (point.recall - least) / span,
            "told": f"{point.kind} {_turned(point.knob)}: recall {point.recall:.4f}, {point.ms:.3f} ms a query",
            "chosen": (point.kind, point.knob) == (shard.kind, shard.knob),
        }
        for point in shard.curve
    ]
    return {"shard": shard, "chosen": _turned(shard.knob), "points": points, "least": least, "most": most}


def _turned(knob: Mapping[str, int]) -> str:
    return ", ".join(f"{name} {value}" for name, value in knob.items())


def agreement(told: Comparison) -> dict[str, Any]:
    """P@k by metric, each with its interval and with its P@10 as a share of 100."""
    (space,) = told.spaces
    rows = [
        {
            "metric": one.metric,
            "cells": [f"{figure.value:.3f} ({figure.low:.3f}–{figure.high:.3f})" for figure in one.precision.values()],
            "share": 100 * list(one.precision.values())[-1].value,
        }
        for one in space.metrics
    ]
    return {"rows": rows, "ks": list(space.metrics[0].precision), "told": told, "missing": ""}


def failures(rows: pa.Table) -> dict[str, Any]:
    """The ledger by stage and reason, with the latest examples of each.

    Args:
        rows: `stage`, `space`, `reason`, `what`, `detail`, `attempts` and `last` of every standing failure.
    """
    keys = ["stage", "space", "reason"]
    groups = rows.group_by(keys).aggregate([([], "count_all")]).to_pylist()
    groups.sort(key=lambda group: (-group["count_all"], *(group[key] for key in keys)))
    latest = rows.sort_by([("last", "descending"), ("what", "ascending")])
    each = max(1, _EXAMPLES // max(1, len(groups)))  # every reason gets its share
    examples: list[dict[str, Any]] = []
    for group in groups[:_EXAMPLES]:
        same = functools.reduce(pc.and_, (pc.equal(latest[key], group[key]) for key in keys))
        examples += latest.filter(same).slice(0, each).to_pylist()
    return {"total": rows.num_rows, "groups": groups, "examples": examples}


def settings_rows(settings: Settings) -> list[dict[str, Any]]:
    """Every setting, its default, and whether they differ. What could be a password is left out."""
    rows = []
    for key, field in known_keys().items():
        value = functools.reduce(getattr, key.split("."), settings)
        default = field.get_default(call_default_factory=True)
        rows.append(
            {
                "key": key,
                "value": _harmless(value),
                "default": _harmless(default),
                "differs": value != default,
                "meaning": field.description,
            }
        )
    return rows


def _harmless(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{name}=***" for name in sorted(value))
    return re.sub(r"//[^/@\s]+@", "//***@", str(value))


def snapshots(facts: Facts, now: Mapping[str, int | None]) -> list[dict[str, Any]]:
    """Each table's snapshot when the run began and now."""
    before = facts.get("start", {}).get("snapshots", {})
    return [{"table": name, "before": before.get(name), "after": after} for name, after in now.items()]
