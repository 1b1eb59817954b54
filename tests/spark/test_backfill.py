"""Backfills: what is missing and nothing else, in a scope or in all ingest dates, killed or beside a nightly run."""

import collections
import datetime
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from tests.runs import PROJECT, Job, submitted

from likeness.cli.plan import plan
from likeness.core.errors import UsageError
from likeness.images.image import BadImage
from likeness.index.builds import Builds
from likeness.models.backbones import resolve
from likeness.ops.backfill_coverage import Scope, space_coverage
from likeness.ops.estimate import backfill as forecast
from likeness.spark import failures, jobs
from likeness.spark.run import Run
from likeness.spark.stages.extract import extract
from likeness.spark.stages.pending import Chunk, PendingImages, portions
from likeness.storage.data_files import row_groups
from likeness.storage.leases import Lease, held_leases, release
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, RUNS

from .conftest import SAMPLE, last_run, run, take

pytestmark = pytest.mark.slow

DAYS = [datetime.date(2026, 1, day) for day in (2, 3, 5)]
SMALL = ("extract.chunk_images=2", "gates.max_failure_rate=0.9")


def spoil(folder: Path, number: int) -> None:
    """A photo whose header is read and whose pixels are not there."""
    whole = sorted((SAMPLE / "skirt").iterdir())[number].read_bytes()
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"truncated{number}.jpg").write_bytes(whole[: len(whole) // 2])


def extracted(settings, space: str = "") -> dict[str, datetime.date]:
    """image_id to ingest date of every vector of a space; each is there once."""
    space = space or resolve(settings.extract.space).id
    rows = TableReader(settings).read(FEATURES, ("image_id", "ingest_date"), f"space = '{space}'").to_pylist()
    date_of_image = {row["image_id"]: row["ingest_date"] for row in rows}
    assert len(date_of_image) == len(rows)
    return date_of_image


def vectors(settings, name: str) -> dict[str, np.ndarray]:
    """image_id to vector."""
    rows = TableReader(settings).read(FEATURES, ("image_id", "vector"), f"space = '{resolve(name).id}'").to_pylist()
    return {row["image_id"]: np.asarray(row["vector"], np.float32) for row in rows}


def photos(settings, *days: datetime.date, category: str = "") -> set[str]:
    """image_ids of ingest dates, and of a category, as the tables list them."""
    listings = TableReader(settings).read(LISTINGS, ("image_id", "category")).to_pylist()
    of_category = {row["image_id"] for row in listings if category in ("", row["category"])}
    images = TableReader(settings).read(IMAGES, ("image_id", "ingest_date")).to_pylist()
    return of_category & {row["image_id"] for row in images if row["ingest_date"] in (days or DAYS)}


@pytest.fixture(scope="module")
def three_days(tmp_path_factory, model_cache):
    """A root of three ingest dates, each of two hats and two shoes, one more hat damaged; nothing is extracted."""
    from likeness.core.settings import load_settings

    folder = tmp_path_factory.mktemp("backfill")
    settings = load_settings(
        None,
        {"root": str(folder / "root"), "source.uri": str(folder / "photos")},
        (f"extract.cache={model_cache}", *SMALL),
    )
    for night, day in enumerate(DAYS):
        take(folder / "photos", "hat", "shoes", start=2 * night, count=2)
        if night == 1:
            spoil(folder / "photos" / "hat", 0)
        jobs.ingest_job(settings.model_copy(update={"date": day}))
    return settings


def test_a_chunk_is_what_lies_beside_each_other(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", count=9), "ingest.chunk_images=4", "extract.chunk_images=5")
    jobs.ingest_job(settings)
    with Run("extract", settings, ("extract",)) as stage:
        pending = PendingImages(stage, Scope())
        chunks = list(pending.chunks())
        photos_in_tables = {(row.file, row.pos) for row in pending.photos().collect()}
    taken = [list(places(chunk.pieces(2))) for chunk in chunks]
    assert sorted(place for chunk in taken for place in chunk) == sorted(photos_in_tables)
    assert [chunk.photos for chunk in chunks] == [len(chunk) for chunk in taken]
    assert {len(chunk) for chunk in taken[:-1]} == {5}
    files, whole = [{uri for uri, _ in chunk} for chunk in taken], {uri for uri, _ in photos_in_tables}
    assert len(whole) > 3
    assert sum(map(len, files)) < len(whole) + len(chunks)  # a file is left where the next chunk begins


def places(pieces: pa.Table) -> Iterator[tuple[str, int]]:
    """Data file and row of each photo."""
    for piece in pieces.to_pylist():
        before = sum(row_groups(piece["uri"])[: piece["group"]])
        yield from ((piece["uri"], before + row) for row in piece["rows"])


def test_pieces_are_rows_of_row_groups(tmp_path):
    files = [str(tmp_path / name) for name in ("a.parquet", "b.parquet")]
    for uri in files:
        pq.write_table(pa.table({"image_id": [f"{uri} {row}" for row in range(90)]}), uri, row_group_size=20)
    rows = [np.array([0, 3, 19, 20, 89]), np.arange(90)]
    chunk = Chunk((), DAYS[0], tuple(zip(files, rows, strict=True)))
    pieces = chunk.pieces(2)
    assert list(places(pieces)) == [(uri, row) for uri, mine in zip(files, rows, strict=True) for row in mine]
    taken = collections.Counter(dict.fromkeys(pieces["task"].to_pylist(), 0))
    for piece in pieces.to_pylist():
        taken[piece["task"]] += len(piece["rows"])
    assert [taken[task] for task in sorted(taken)] == portions(95, 2)


def test_a_retry_clears_what_has_a_vector_by_now(configure, tmp_path):
    """As a retry leaves it that was killed between its vectors and the ledger."""
    settings = configure(take(tmp_path / "photos", count=2), *SMALL)
    jobs.ingest_job(settings)
    jobs.extract_job(settings)
    space = resolve(settings.extract.space).id
    bad, there = BadImage("decode_timeout", "over 10 s"), min(extracted(settings))
    with Run("extract", settings, ("extract",)) as stage:
        failures.record(stage, "extract", space, {there: bad, "elsewhere": bad})
        extract(stage, retry=True)
    assert TableReader(settings).read(FAILURES, ("what",))["what"].to_pylist() == ["elsewhere"]


SCOPES = [
    (Scope(DAYS[1], DAYS[0]), r"--from 2026-01-03 is later than --to 2026-01-02; exchange them"),
    (
        Scope(datetime.date(2025, 3, 1), datetime.date(2025, 4, 1)),
        r"no photo is of --from 2025-03-01 --to 2025-04-01; .* 2026-01-02 to 2026-01-05 \(3\)",
    ),
    (Scope(first=datetime.date(2026, 1, 6)), r"no photo is of --from 2026-01-06;"),
    (Scope(category="hats"), r"--category 'hats': no active listing .*Did you mean 'hat'\? Categories: 'hat', 'shoes'"),
    (Scope(category=""), r"--category '': no active listing .* Categories: 'hat', 'shoes'"),
    (Scope(category="x' OR '1'='1"), r"no active listing has this category"),
    (
        Scope(datetime.date(2026, 1, 4), datetime.date(2026, 1, 4), "hat"),
        r"no photo is of --from 2026-01-04 --to 2026-01-04",
    ),
]


@pytest.mark.parametrize(("scope", "message"), SCOPES, ids=[str(scope) for scope, _ in SCOPES])
def test_a_scope_that_cannot_be_meant_is_refused(three_days, scope, message):
    before = TableReader(three_days).snapshot(RUNS)
    with pytest.raises(UsageError, match=message):
        jobs.backfill(three_days, scope)
    assert TableReader(three_days).snapshot(RUNS) == before


def test_a_backfill_does_what_is_missing_in_its_scope(three_days, capsys):
    space = resolve(three_days.extract.space)
    last = Scope(first=DAYS[2])
    runs = TableReader(three_days).snapshot(RUNS)
    jobs.backfill(three_days, last, dry_run=True)
    output = capsys.readouterr().out
    assert "2026-01-05             4           0           0           4\n" in output
    assert "2026-01-02" not in output
    assert f"{space.id}, ingest dates 2026-01-05 to the last: 4 photos to extract; time: never measured here" in output
    assert (extracted(three_days), TableReader(three_days).snapshot(RUNS)) == ({}, runs)

    for scope, pending, failed in (
        (last, photos(three_days, DAYS[2]), 0),
        (Scope(DAYS[1], DAYS[1], "hat"), photos(three_days, DAYS[1], category="hat"), 1),
        (Scope(category="hat"), photos(three_days, DAYS[0], category="hat"), 0),
        (Scope(last=DAYS[1]), photos(three_days, DAYS[0], DAYS[1], category="shoes"), 0),
    ):
        before = extracted(three_days)
        assert forecast(three_days, space, scope)[0].count == len(pending)
        jobs.backfill(three_days, scope)
        facts = last_run(three_days)["facts"]["extract"]
        assert (facts["pending"], facts["failed"]) == (len(pending), failed)
        assert facts["scope"] == str(scope)
        added = extracted(three_days).keys() - before.keys()
        assert added <= pending
        assert len(added) == facts["extracted"] == len(pending) - failed
        assert sum(cell.missing for cell in space_coverage(TableReader(three_days), space.id, scope)) == 0
    (row,) = TableReader(three_days).read(FAILURES).to_pylist()
    assert (row["stage"], row["space"], row["reason"], row["attempts"]) == ("extract", space.id, "undecodable", 1)
    assert {**extracted(three_days), row["what"]: DAYS[1]}.keys() == photos(three_days)
    features = extracted(three_days)
    images = TableReader(three_days).read(IMAGES, ("image_id", "ingest_date")).to_pylist()
    assert all(features.get(image["image_id"], image["ingest_date"]) == image["ingest_date"] for image in images)
    snapshot = TableReader(three_days).snapshot(FEATURES)
    for scope in (Scope(), Scope(), last):  # nothing is left, and what failed is not tried each time
        jobs.backfill(three_days, scope)
        assert last_run(three_days)["facts"]["extract"]["pending"] == 0
    assert TableReader(three_days).snapshot(FEATURES) == snapshot
    assert "1 failure in the ledger: `likeness failures list" in capsys.readouterr().out
    assert run(three_days, jobs.extract_job)["extract"]["pending"] == 0


def started(job: str, settings, *flags: str) -> Job:
    words = ["--root", settings.root]
    for text in (f"extract.cache={settings.extract.cache}", *SMALL):
        words += ["--set", text]
    return Job([sys.executable, f"jobs/{job}.py", *words, *flags])


@pytest.mark.kill
def test_a_killed_backfill_is_completed_by_the_next(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", "shoes", count=4)
    spoil(source / "hat", 0)
    settings = configure(source, *SMALL)
    jobs.ingest_job(settings)
    with started("backfill", settings, "--from", "2026-01-02") as job:
        job.until("extract: committed 4 of 9")
        job.kill()
        job.process.wait(30)
    before = extracted(settings)
    assert 3 <= len(before) < 8
    assert {one.state for one in held_leases(settings.root)} == {"dead"}
    jobs.backfill(settings, Scope())
    facts = last_run(settings)["facts"]["extract"]
    failed = TableReader(settings).read(FAILURES, ("what",))["what"].to_pylist()
    assert len(failed) == 1
    assert extracted(settings).keys() | set(failed) == photos(settings, settings.date)
    assert facts["extracted"] == 8 - len(before)
    statuses = [(row["job"], row["status"]) for row in TableReader(settings).read(RUNS).sort_by("started").to_pylist()]
    assert statuses == [("ingest", "done"), ("backfill", "killed"), ("backfill", "done")]


def test_a_killed_run_gets_one_row_whoever_takes_over(configure, tmp_path):
    """Its leases may be taken over by several runs, one after the other."""
    settings = configure(take(tmp_path / "photos", "hat", count=1))
    space = resolve(settings.extract.space).id
    who = {"run_id": "the-dead", "job": "nightly", "started": "2026-01-01T00:00:00+00:00"}
    for name in ("ingest", f"extract-{space}", f"load-{space}"):
        with Lease(settings.root, name, who):
            pass
        path = Path(settings.root, "leases", f"{name}.1.json")
        path.write_text(json.dumps(json.loads(path.read_text()) | {"state": "held", "born": "1"}))
    release(settings.root, f"load-{space}")
    for job in (jobs.ingest_job, jobs.extract_job, jobs.load_job):
        job(settings)
    rows = TableReader(settings).read(RUNS).sort_by("started").to_pylist()
    assert [(row["job"], row["status"]) for row in rows] == [
        ("nightly", "killed"),
        ("ingest", "done"),
        ("extract", "done"),
        ("load", "done"),
    ]


def order_of_commits(settings) -> list[str]:
    """The space of each commit of vectors, the first one first."""
    entries = TableReader(settings)._load(FEATURES).inspect.entries().to_pylist()
    space_of_commit = {entry["sequence_number"]: entry["data_file"]["partition"]["space"] for entry in entries}
    return [space_of_commit[number] for number in sorted(space_of_commit)]


LAYERS = ("efficientnet_lite0.pool", "efficientnet_lite0.stage7.mean")


def test_one_pass_gives_the_vectors_of_several_spaces(configure, tmp_path, capsys):
    source = take(tmp_path / "photos", "hat", "shoes", count=3)
    spoil(source / "hat", 0)
    settings = configure(source, f"extract.space={LAYERS[0]}", f"extract.also=['{LAYERS[1]}']", *SMALL)
    jobs.ingest_job(settings)
    jobs.backfill(settings, Scope(), dry_run=True)
    output = capsys.readouterr().out
    assert [line.split()[0] for line in output.splitlines() if "7 photos to extract" in line] == [
        f"{resolve(name).id}," for name in LAYERS
    ]
    facts = run(settings, jobs.extract_job)["extract"]
    assert (facts["pending"], facts["extracted"], facts["failed"]) == (7, 6, 1)
    assert facts["networks"] <= facts["workers"]
    failed = TableReader(settings).read(FAILURES, ("what", "space")).to_pylist()
    assert len({row["what"] for row in failed}) == 1
    assert {row["space"] for row in failed} == {resolve(name).id for name in LAYERS}
    for name in LAYERS:
        alone = configure(source, f"extract.space={name}", *SMALL).model_copy(update={"root": str(tmp_path / name)})
        jobs.ingest_job(alone)
        jobs.extract_job(alone)
        expected = vectors(alone, name)
        actual = vectors(settings, name)
        assert actual.keys() == expected.keys()
        assert all(np.allclose(actual[key], expected[key], rtol=1e-4, atol=1e-5) for key in actual)


def test_what_lacks_in_some_of_several_spaces_is_extracted_for_these(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", count=3)
    settings = configure(source, f"extract.space={LAYERS[0]}", *SMALL)
    jobs.ingest_job(settings)
    jobs.extract_job(settings)
    take(tmp_path / "photos", "shoes", count=2)
    jobs.ingest_job(settings)
    both = configure(source, f"extract.space={LAYERS[0]}", f"extract.also=['{LAYERS[1]}']", *SMALL)
    before = extracted(settings, resolve(LAYERS[0]).id)
    assert run(both, jobs.extract_job)["extract"]["pending"] == 5
    assert len(before) == 3
    for name in LAYERS:
        assert extracted(settings, resolve(name).id).keys() == photos(settings, settings.date)
    assert run(both, jobs.extract_job)["extract"]["pending"] == 0
    shoes = configure(source, f"extract.space={LAYERS[1]}", *SMALL)
    assert run(shoes, jobs.extract_job)["extract"]["pending"] == 0


def test_one_pass_is_of_one_network(configure, tmp_path):
    settings = configure(take(tmp_path / "photos", count=1), "extract.also=['hog.blocks']")
    with pytest.raises(
        UsageError, match=r"extract.also = 'hog.blocks': its network is hog, that of extract.space efficientnet_lite0"
    ):
        jobs.extract_job(settings)


@pytest.mark.timeout(1800)
def test_a_backfill_beside_a_nightly_run_of_another_space(configure, tmp_path):
    source = take(tmp_path / "photos", "hat", "pants", "shirt", "shoes", count=10)
    spoil(source / "hat", 0)
    settings = configure(source, "extract.chunk_images=1", "gates.max_failure_rate=0.9")
    jobs.ingest_job(settings)
    today, tomorrow = settings.date, settings.date + datetime.timedelta(1)
    old = photos(settings, today)
    take(source, "skirt", count=3)
    spoil(source / "skirt", 1)
    hog, lite = resolve("hog.blocks").id, resolve(settings.extract.space).id
    flags = ("--space", "hog.blocks", "--to", str(today))
    with (
        started("backfill", settings, *flags, "--set", "extract.chunk_images=1") as backfill,
        started("nightly", settings, "--source", str(source), "--date", str(tomorrow)) as nightly,
    ):
        assert nightly.code(900) == 0, nightly.output
        assert backfill.code(900) == 0, backfill.output
    rows = {
        row["job"]: row | {"facts": json.loads(row["facts"])} for row in TableReader(settings).read(RUNS).to_pylist()
    }
    assert {job: row["status"] for job, row in rows.items()} == dict.fromkeys(("ingest", "backfill", "nightly"), "done")
    facts = rows["nightly"]["facts"]
    assert (facts["ingest"]["new"], facts["extract"]["pending"], facts["extract"]["failed"]) == (4, 45, 2)
    assert facts["load"]["vectors"] == facts["index"]["vectors"] == 43
    facts_of_backfill = rows["backfill"]["facts"]["extract"]
    assert (facts_of_backfill["pending"], facts_of_backfill["extracted"], facts_of_backfill["failed"]) == (41, 40, 1)
    new = photos(settings, tomorrow)
    assert len(new) == 4
    ledger = {(row["what"], row["space"]) for row in TableReader(settings).read(FAILURES).to_pylist()}
    order = order_of_commits(settings)
    for one, other in ((hog, lite), (lite, hog)):
        assert one in order[order.index(other) :], "one ran after the other, which proves nothing"
    assert {space for _, space in ledger} == {hog, lite}
    assert len(ledger) == 3
    failed = {space: {what for what, where in ledger if where == space} for space in (hog, lite)}
    assert extracted(settings, lite).keys() == (old | new) - failed[lite]
    assert extracted(settings, hog).keys() == old - failed[hog]
    published = Builds(settings.root).find()
    assert published.space == lite
    # what came in meanwhile is the next one's
    other = configure(source, "extract.space=hog.blocks", "gates.max_failure_rate=0.9")
    jobs.backfill(other, Scope())
    assert last_run(settings)["facts"]["extract"]["pending"] == 4
    assert extracted(settings, hog).keys() == (old | new) - failed[lite]
    assert run(settings)["extract"]["pending"] == 0


def test_a_dry_run_starts_no_spark(three_days):
    environment = submitted("backfill", (), ())[1]
    words = ["backfill", "--root", three_days.root, "--to", "2026-01-02", "--dry-run", "--", "--master", "nowhere"]
    environment["LIKENESS_PYTHON"] = sys.executable
    done = subprocess.run(
        ["./spark-submit.sh", *words], cwd=PROJECT, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "dry run: nothing was extracted" in done.stdout
    assert "2026-01-05" not in done.stdout


def test_a_plan_of_a_backfill_is_what_it_would_extract(three_days, capsys):
    settings, day = three_days, datetime.datetime(2026, 1, 5)
    cache = [f"extract.cache={settings.extract.cache}"]
    capsys.readouterr()
    plan(settings.root, first=day, category="hat", as_json=True, assignments=cache)
    estimate = json.loads(capsys.readouterr().out)
    assert estimate["scope"] == "ingest dates 2026-01-05 to the last, category 'hat'"
    (step,) = estimate["steps"]
    missing = sum(
        cell.missing
        for cell in space_coverage(TableReader(settings), estimate["space"], Scope(day.date(), category="hat"))
    )
    assert (step["stage"], step["count"], step["stored"]) == ("extract", missing, 4 * 1280 * missing)
    with pytest.raises(UsageError, match="--source photos: a backfill reads the tables alone"):
        plan(settings.root, source="photos", first=day)
