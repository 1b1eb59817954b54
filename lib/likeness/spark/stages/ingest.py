"""Ingest: a source's listing in, rows of `sources`, `images` and `listings` out.   [pyspark]

A place is a URI of the source. A chunk commits its photos first and its places last; after a kill the places are read
again, and their photos are found in `images`.
"""

import functools
import hashlib
from collections.abc import Iterator
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
from pyspark import StorageLevel
from pyspark.sql import DataFrame
from pyspark.sql import functions as F

from likeness.catalog.sources import Listing, Reader, read_listing
from likeness.core import uris
from likeness.core.settings import Limits
from likeness.images.image import BadImage, read_header
from likeness.spark import failures
from likeness.spark.arrow_map import arrow_map, rows_of
from likeness.spark.run import Run
from likeness.spark.stages import listings
from likeness.storage.run_facts import IngestFacts
from likeness.storage.tables import FAILURES, IMAGES, LISTINGS, SOURCES

_TYPES = {column.name: column.type for table in (FAILURES, SOURCES, IMAGES) for column in table.columns}
_OF_PLACES, _OF_PHOTOS = ("uri", "length", "mtime"), ("image_id", "bytes", "format", "width", "height", "size")
_READ = pa.schema([(name, _TYPES[name]) for name in (*_OF_PLACES, *_OF_PHOTOS, "reason", "detail")])
_BATCH_BYTES = 16_000_000


def ingest(run: Run, retry: bool = False) -> None:
    """Brings the tables up to date with the source.

    Args:
        run: the run; its facts get listed = new + existing + rejected.
        retry: reads the places again that were rejected before.
    """
    with run.stage(IngestFacts) as facts:
        listing = read_listing(run.settings.source)
        run.say(f"ingest: listed {listing.items.num_rows} photos in {run.settings.source.uri}")
        fingerprint = _fingerprint(run, listing)
        before = run.last_facts(IngestFacts, SOURCES, LISTINGS, FAILURES)
        if before and before.fingerprint == fingerprint and not retry:
            _carry_over(before, facts)
        else:
            _ingest_listing(run, listing, retry, facts)
        facts.fingerprint = fingerprint  # only now: a listing that was refused was not ingested
        run.must_add_up(facts)
        counts = ("listed", "new", "existing", "reused", "rejected", "changed", "withdrawn")
        run.say("ingest: " + ", ".join(f"{getattr(facts, name)} {name}" for name in counts))
        run.gate_failures("ingest", facts.rejected, facts.listed)


def _ingest_listing(run: Run, listing: Listing, retry: bool, facts: IngestFacts) -> None:
    source = run.settings.source
    prefixes = tuple(uris.canonical(uri) for uri in (source.uri, source.catalogue) if uri)
    failures.record_listing(run, dict(listing.rejected), prefixes)
    pending, unchanged = _split(run, listing, retry)
    facts.new = facts.reused = facts.rejected_now = facts.bytes = 0
    facts.read = pending.num_rows
    for chunk in _chunks(pending, run.settings.ingest.chunk_images, run.settings.ingest.chunk_bytes):
        _ingest_chunk(run, chunk, facts)
    facts.listed = sum(unchanged.values()) + pending.num_rows + len(listing.rejected)
    facts.existing = unchanged.get("image", 0) + facts.reused
    facts.rejected = facts.rejected_now + unchanged.get("rejected", 0) + len(listing.rejected)
    facts.ignored, facts.unlisted = listing.ignored, listing.unlisted
    listings.update(run, listing.items, facts)


def _fingerprint(run: Run, listing: Listing) -> str:
    """Digest of a listing and of the mode of its source."""
    digest = hashlib.sha256(run.settings.source.mode.encode())
    for batch in listing.items.to_batches(max_chunksize=65_536):
        digest.update(batch.serialize())
    digest.update(repr([(what, bad.reason) for what, bad in listing.rejected]).encode("utf-8", "surrogateescape"))
    return digest.hexdigest()


def _carry_over(before: IngestFacts, facts: IngestFacts) -> None:
    """Counts a listing that the last run has ingested, without a query to the tables."""
    facts.new = facts.reused = facts.read = facts.rejected_now = facts.bytes = facts.changed = facts.withdrawn = 0
    facts.listed, facts.existing, facts.rejected = before.listed, before.new + before.existing, before.rejected
    facts.ignored, facts.unlisted = before.ignored, before.unlisted


def _split(run: Run, listing: Listing, retry: bool) -> tuple[pa.Table, dict[str, int]]:
    """The places to read, in the order of their bytes, and the number of unchanged places by outcome.

    A place is unchanged if its uri, length and mtime are those of the last run that read it.
    """
    columns = ["uri", "length", "mtime", "container", "position"]
    listed = listing.items.select(columns)
    if not listed.num_rows:
        return listed, {}
    items = run.tables.spark.createDataFrame(listed)
    seen = run.tables.read(SOURCES).selectExpr("uri", "length l", "mtime m", "outcome")
    same = (F.col("length") == F.col("l")) & (F.col("mtime") == F.col("m"))
    same = F.coalesce(same & (F.col("outcome") == "image") if retry else same, F.lit(False))
    places = items.dropDuplicates(["uri"]).join(seen, "uri", "left").withColumn("same", same).toArrow()
    pending = places.filter(pc.invert(places["same"]))
    pending = pending.append_column("seen", pc.is_valid(pending["l"])).drop_columns(["l", "m", "outcome", "same"])
    counts = places.filter(places["same"])["outcome"].value_counts()
    order = [(name, "ascending") for name in ("container", "position", "uri")]
    return pending.sort_by(order), dict(zip(*(values.to_pylist() for values in counts.flatten()), strict=True))


def _chunks(pending: pa.Table, images: int, size: int) -> Iterator[pa.Table]:
    """Splits the places into chunks of at most so many images and bytes."""
    start, chunk_size = 0, 0
    for row, length in enumerate(pending["length"].to_pylist()):
        if row > start and (row - start >= images or chunk_size + length > size):
            yield pending.slice(start, row - start)
            start, chunk_size = row, 0
        chunk_size += length
    if start < pending.num_rows:
        yield pending.slice(start)


def _ingest_chunk(run: Run, chunk: pa.Table, facts: IngestFacts) -> None:
    tables = run.tables
    places = tables.spark.createDataFrame(chunk)
    read = arrow_map(places, functools.partial(_read, run.settings.limits), _READ).persist(StorageLevel.MEMORY_AND_DISK)
    try:
        outcomes = read.drop("bytes").toArrow()
        good = outcomes.filter(pc.is_valid(outcomes["image_id"]))
        fresh = _fresh(run, good)
        if fresh.num_rows:
            facts.new += tables.append(IMAGES, _images(run, read, fresh))
            run.say(f"ingest: committed {fresh.num_rows} images")
        bad = outcomes.filter(pc.is_null(outcomes["image_id"])).to_pylist()
        failed = {row["uri"]: BadImage(row["reason"], row["detail"]) for row in bad}
        failures.record(run, "ingest", "", failed, good["uri"].to_pylist())
        _record_places(run, outcomes, any(chunk["seen"].to_pylist()))
        run.say(f"ingest: recorded {outcomes.num_rows} places")
    finally:
        read.unpersist()
    facts.reused += good.num_rows - fresh.num_rows
    facts.rejected_now += len(bad)
    facts.bytes += pc.sum(good["size"]).as_py() or 0


def _fresh(run: Run, good: pa.Table) -> pa.Table:
    """One place (image_id, uri) of each photo that is not in `images`."""
    first = good.group_by("image_id").aggregate([("uri", "min")]).rename_columns(["image_id", "uri"])
    if not first.num_rows:
        return first
    ids = run.tables.spark.createDataFrame(first)
    return ids.join(run.tables.read(IMAGES).select("image_id"), "image_id", "left_anti").toArrow()


def _images(run: Run, read: DataFrame, fresh: pa.Table) -> DataFrame:
    keys = F.broadcast(run.tables.spark.createDataFrame(fresh.select(["uri"])))
    rows = read.join(keys, "uri", "left_semi").withColumn("ingest_date", F.lit(run.settings.date))
    # a range of ids can be read from sorted files without the rest
    return rows.sortWithinPartitions("image_id")


def _record_places(run: Run, outcomes: pa.Table, replaces: bool) -> None:
    good = pc.is_valid(outcomes["image_id"])
    table = outcomes.select(["uri", "length", "mtime", "image_id", "reason"])
    table = table.append_column("outcome", pc.if_else(good, "image", "rejected"))
    table = table.append_column("run_id", pa.array([run.run_id] * table.num_rows))
    commit = run.tables.upsert if replaces else run.tables.append
    commit(SOURCES, run.tables.spark.createDataFrame(table))


def _read(limits: Limits, batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Reads the photos of places: batches of `_split` in, batches of `_READ` out."""
    reader, rows, batch_size = Reader(limits), [], 0
    for place in rows_of(batches):
        rows.append(_read_one(reader, place, limits))
        batch_size += rows[-1]["size"]
        if batch_size > _BATCH_BYTES:
            yield pa.RecordBatch.from_pylist(rows, schema=_READ)
            rows, batch_size = [], 0
    reader.close()
    yield pa.RecordBatch.from_pylist(rows, schema=_READ)


def _read_one(reader: Reader, place: dict[str, Any], limits: Limits) -> dict[str, Any]:
    row = {name: place[name] for name in _OF_PLACES} | {"size": 0}
    try:
        data = reader.read(place["uri"], place["length"], place["container"], place["position"])
        header = read_header(data, limits)
    except BadImage as bad:
        return row | {"reason": bad.reason, "detail": bad.detail}
    image_id = hashlib.sha256(data).hexdigest()
    values = (image_id, data, header.format, header.width, header.height, len(data))
    return row | dict(zip(_OF_PHOTOS, values, strict=True))
