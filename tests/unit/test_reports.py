"""Run reports on small real builds, with names from a catalogue that means harm."""

import base64
import dataclasses
import datetime
import hashlib
import io
import re
import shlex
import sys
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image
from tests.records import shard_record

from likeness.core import formatting
from likeness.core.settings import Settings
from likeness.core.statistics import Figure
from likeness.evaluation.compare_spaces import Comparison, SpaceFigures
from likeness.evaluation.retrieval_metrics import MetricResult
from likeness.index import distance
from likeness.index.build import BuildSpec, build_shard
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest, OperatingPoint, Recall, Shard
from likeness.index.shard_plan import plan_shards
from likeness.ops import reports
from likeness.ops.reports import build_figures, figures, samples, terminal
from likeness.ops.reports.pages import render_page
from likeness.ops.reports.samples import Samples
from likeness.storage.run_facts import RunFacts
from likeness.storage.run_history import RunRow
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, Table

DIM, SPACE = 8, "made.up@00000000"
HOSTILE = "<script>alert('x')</script>\"><img src=http://evil.test/a.png>"
NAMES = ("dress", HOSTILE, "连衣裙", "قبعة", "shoes", "hat", "a\x1b[31mred")
STARTED = datetime.datetime(2026, 11, 21, 9, 23, 47, tzinfo=datetime.UTC)
FACTS: dict[str, dict[str, Any]] = {
    "start": {"snapshots": {"images": 11, "failures": None}, "seconds": 9.0},
    "ingest": {
        "new": 150, "reused": 50, "read": 202, "rejected_now": 2, "bytes": 3_700_000, "listed": 210,
        "existing": 57, "rejected": 3, "withdrawn": 0, "seconds": 10.1,
    },
    "extract": {"pending": 150, "extracted": 149, "failed": 1, "standing_failures": 1, "seconds": 7.5},
    "load": {"vectors": 149, "products": 100, "deleted": 0, "seconds": 0.5},
    "index": {"built": 7, "vectors": 140, "expected": 140, "unsearchable": 1, "seconds": 65.2},
    "publish": {"recall": 1.0, "seconds": 0.007},
    "report": {},
}  # fmt: skip

RAN = RunFacts.model_validate(FACTS)

COMPARED = Comparison(
    [
        SpaceFigures(
            SPACE,
            DIM,
            [
                MetricResult("cosine", {1: Figure(0.8154, 0.79, 0.84), 10: Figure(0.75, 0.729, 0.767)}, 1.5),
                MetricResult("hamming", {1: Figure(0.5, 0.4, 0.6), 10: Figure(0.25, 0.2, 0.3)}, 0.1),
            ],
            None,
            "",
            {},
        )
    ],
    photos=2000,
    of=3068,
    queries=1000,
    overlap={},
)


class Tables(TableReader):
    """The two tables of a build, in memory; filters are left to the caller."""

    def __init__(self, settings: Settings, vectors: Mapping[str, np.ndarray], photos: Mapping[str, bytes]) -> None:
        super().__init__(settings)
        self.vectors, self.kept = vectors, photos

    def read(
        self, schema: Table, columns: Sequence[str] = ("*",), where: str = "", snapshot: int | None = None
    ) -> pa.Table:
        assert schema is FEATURES
        assert f"space = '{SPACE}'" in where
        rows = {key: vector for key, vector in self.vectors.items() if key in where}
        return pa.table({"image_id": list(rows), "vector": pa.array(list(rows.values()), pa.list_(pa.float32()))})

    def photos(self, image_ids: Collection[str]) -> dict[str, bytes]:
        return {key: self.kept[key] for key in image_ids if key in self.kept}


class BuiltRoot:
    """A root with one published build of seven categories."""

    def __init__(self, root: Path, names: Sequence[str] = NAMES, each: int = 20) -> None:
        self.root, self.settings, self.builds = root, Settings(root=str(root)), Builds(str(root))
        chance = np.random.default_rng(7)
        self.vectors: dict[str, np.ndarray] = {}
        self.photos: dict[str, bytes] = {}
        (root / "photos").mkdir(parents=True)
        records = []
        for shard in plan_shards(dict.fromkeys(names, each), each, 1):
            rows = sorted(hashlib.sha256(f"{shard.number} {row}".encode()).hexdigest() for row in range(each))
            vectors = chance.normal(size=(each, DIM)).astype(np.float32)
            self.vectors |= dict(zip(rows, vectors, strict=True))
            for key in rows:
                self.photos[key] = jpeg(chance)
                (root / "photos" / f"{key} 1.jpg").write_bytes(self.photos[key])
            batch = pa.RecordBatch.from_pydict(
                {
                    "image_id": rows,
                    "shown": [
                        [
                            {
                                "category": shard.categories[0],
                                "uri": f"file://{root}/photos/{key} 1.jpg",
                                "products": [f"product {key[:6]}"],
                            }
                        ]
                        for key in rows
                    ],
                    "vector": [np.asarray(vector, "<f4").tobytes() for vector in vectors],
                }
            )
            order = BuildSpec(f"{self.builds.folder}/{SPACE}", "one", SPACE, DIM, self.settings.index)
            records.append(build_shard(shard, [batch], order))
        self.manifest = manifest(records)
        self.builds.write(self.manifest)
        self.builds.publish(self.manifest, 5)
        self.tables = Tables(self.settings, self.vectors, self.photos)

    def file(self, shard: int, end: str) -> Path:
        return self.root / "builds" / SPACE / "one" / f"shard-{shard:05d}.{end}"


def jpeg(chance: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 255, (200, 300, 3), np.uint8)).save(file, "JPEG")
    return file.getvalue()


def manifest(shards: Sequence[Shard], **more: Any) -> Manifest:
    vectors = sum(shard.vectors for shard in shards)
    facts = {"build": "one", "run_id": "r", "created": "", "space": SPACE, "dim": DIM, "kind": "flat"}
    counts = {"images": vectors, "products": vectors, "vectors": vectors}
    return Manifest(
        **facts | counts | {"metric": "cosine", "snapshots": {}, "index_settings": {}, "shards": shards} | more
    )


def record(number: int, category: str, vectors: int, recall: float = 1.0) -> Shard:
    return shard_record(number, category, vectors, recall=recall)


def run_row(facts: Mapping[str, Any] = FACTS, **more: Any) -> RunRow:
    values = {
        "run_id": "20261121T092347-nightly-5864ad",
        "job": "nightly",
        "status": "done",
        "error": None,
        "started": STARTED,
        "ended": STARTED + datetime.timedelta(seconds=185),
        "space": SPACE,
        "build": f"{SPACE}/one",
        "settings": "{}",
        "facts": ran(facts),
    }
    return RunRow(**values | more)


def ledger(rows: Sequence[tuple[str, str, str]]) -> pa.Table:
    """(stage, reason, what), each tried a minute after the one before."""
    columns = ("stage", "reason", "what")
    return pa.Table.from_pylist(
        [
            dict(zip(columns, row, strict=True))
            | {"space": "", "detail": f"because of {row[2]}", "attempts": 2, "run_id": "r"}
            | {"last": STARTED + datetime.timedelta(minutes=minute)}
            for minute, row in enumerate(rows)
        ],
        FAILURES.arrow(),
    )


def page(built: BuiltRoot, failed: Sequence[tuple[str, str, str]] = (), trial: Shard | None = None, **more: Any) -> str:
    report = reports.run_report(run_row(**more), built.settings, built.manifest, TableReader(built.settings))
    report = dataclasses.replace(
        report,
        failures=figures.failure_summary(ledger(failed)),
        samples=draw(built),
        neighbours=COMPARED,
        snapshots=figures.snapshot_lines(RAN, {"images": 12, "failures": None}),
        trial=trial,
    )
    return render_page("report.html.j2", report).decode()


def draw(built: BuiltRoot) -> Samples:
    return samples.draw_samples(built.builds, built.manifest, built.tables)


def ran(facts: Mapping[str, Any]) -> RunFacts:
    return RunFacts.model_validate(facts)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> BuiltRoot:
    return BuiltRoot(tmp_path_factory.mktemp("root"))


def test_page_tells_the_run(built: BuiltRoot) -> None:
    text = page(built)
    for line in (
        "210 photos listed: 150 new, 57 existing, 3 rejected. Build one is in service with 140 images in 7 shards.",
        "20261121T092347-nightly-5864ad",
        "2026-11-21 09:23:47 UTC, took 3 min 05 s",
        f"{SPACE}/one",
        "listed 210 = new 150 + existing 57 + rejected 3",
        "pending 150 = extracted 149 + failed 1",
        "expected 140 = vectors 140",
        "25.0% (50 of 200 photos read",
        "1 min 05 s",
        "<code>11</code>",
        "<code>12</code>",
    ):
        assert line in text
    assert text.count("✓ holds") == 3
    assert re.search(r"Failures</h2>\s*<p>none</p>", text)


def test_page_shows_an_error_and_a_sum_that_is_wrong(built: BuiltRoot) -> None:
    wrong = FACTS | {"extract": FACTS["extract"] | {"failed": 2}}
    text = page(built, facts=wrong, status="failed", error="<b>disk full</b>")
    assert text.count("✓ holds") == 2
    assert text.count("✗ does not hold") == 1
    assert "&lt;b&gt;disk full&lt;/b&gt;" in text


def test_names_from_the_catalogue_stay_text(built: BuiltRoot) -> None:
    text = page(built, [("ingest", "not_an_image", HOSTILE)])
    assert HOSTILE not in text
    assert "<script" not in text
    assert text.count("&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;") >= 4  # bars, shards, samples, failures
    assert "<bdi>连衣裙</bdi>" in text
    assert "<bdi>قبعة</bdi>" in text


def test_page_asks_for_nothing_outside_and_is_small(built: BuiltRoot) -> None:
    text = page(built)
    assert not re.findall(r"<(?:script|link|iframe|object)\b", text)
    assert set(re.findall(r"<[^>]*\b(?:src|href)=\"(.{5})", text)) == {"data:"}
    assert "url(" not in text
    assert "prefers-color-scheme: dark" in text
    assert len(text.encode()) < 1_000_000


def test_identities_of_a_stage_that_counted_nothing_are_open() -> None:
    rows = figures.count_identities(ran({"ingest": FACTS["ingest"], "index": {"built": 0, "seconds": 0.1}}))
    assert [row.holds for row in rows] == [True, None, None]


def test_nothing_changed_is_said(built: BuiltRoot) -> None:
    facts = ran(FACTS | {"index": {"built": 0, "step": "unchanged", "seconds": 0.01}})
    assert "did not change: build one stays in service with 140 images" in figures.headline(
        facts, built.manifest, built.manifest.path
    )
    assert "stays in service" in reports.summary(facts, built.settings, built.manifest)


def test_a_build_that_a_pin_kept_from_publication_is_said(built: BuiltRoot) -> None:
    path = f"{SPACE}/one"
    facts = {**FACTS, "publish": {"recall": 1.0, "unpublished": path, "pinned": f"{SPACE}/zero"}}
    html = page(built, facts=ran(facts), build=f"{SPACE}/zero")
    assert f"Build one with 140 images in 7 shards is not published. {SPACE}/zero stays in service" in html
    assert "<dt>pinned</dt>" not in html, "the root is as it is now"
    built.builds.rollback(path)
    try:
        assert f"<dt>pinned</dt><dd>a rollback put {path} in service at 20" in page(built)
    finally:
        built.builds.release()
    line = next(
        line for line in reports.summary(ran(facts), built.settings, built.manifest).splitlines() if "build" in line
    )
    assert f"{path} is not published: a rollback pinned {SPACE}/zero; `./spark-submit.sh publish`" in line


def test_stages_have_throughput_and_share() -> None:
    rows = {row.name: row for row in figures.stage_lines(RAN)}
    assert [row.rate for row in rows.values()] == ["", "20 photos/s", "20 photos/s", "298 vectors/s", "", ""]
    assert rows["index"].share == 100
    assert rows["extract"].share == pytest.approx(100 * 7.5 / 65.2)
    assert rows["start"].counts == ""
    assert "bytes 3.7 MB" in rows["ingest"].counts


def test_a_stage_without_work_has_no_throughput() -> None:
    (row,) = figures.stage_lines(ran({"extract": {"worker_seconds": {"read": 0.04, "model": 1234.5}, "seconds": 1.0}}))
    assert row.counts == "worker seconds: read 0.04, model 1,234.5"
    rows = figures.stage_lines(ran({"extract": {"pending": 0, "seconds": 1.3}, "load": {"vectors": 5, "seconds": 0.0}}))
    assert [row.rate for row in rows] == ["", ""]


def test_reuse_rate_without_photos_is_no_division() -> None:
    assert "none" in figures.reuse_rate(ran({"ingest": {"new": 0, "reused": 0}}))


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0.00 s"), (0.018, "0.02 s"), (15.448, "15.4 s"), (59.97, "1 min 00 s"), (7790, "2 h 09 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert formatting.duration(seconds) == text


def test_forty_categories_are_shown_and_the_rest_summed_up(built: BuiltRoot) -> None:
    many = manifest([record(n, f"c{n:02}", n + 1) for n in range(45)])
    largest, others = build_figures.largest_categories(many)
    assert largest == [(f"c{n:02}", n + 1) for n in range(44, 4, -1)]
    assert others == [(f"c{n:02}", n + 1) for n in range(4, -1, -1)]
    report = reports.run_report(run_row(), built.settings, many, TableReader(built.settings))
    text = render_page("report.html.j2", report).decode()
    assert "and 5 more with 15 images" in text
    bars = re.findall(r"<bdi>(c\d\d)</bdi></span><span class=\"bar\"><i style=\"width:([\d.]+)%", text)
    assert (bars[0], bars[-1]) == (("c44", "100.0"), ("c05", "13.3"))


def test_of_many_shards_the_worst_are_shown(built: BuiltRoot) -> None:
    many = manifest([record(n, "dress", 9, recall=1 - n / 1000) for n in range(100)])
    assert [shard.number for shard in build_figures.shards(many)] == list(range(99, 39, -1))
    few = manifest([record(n, "dress", 9, recall=0.9) for n in (1, 0)])
    assert [shard.number for shard in build_figures.shards(few)] == [0, 1]
    report = reports.run_report(run_row(), built.settings, many, TableReader(built.settings))
    assert "The 60 shards of the lowest recall, of 100." in render_page("report.html.j2", report).decode()


def test_the_choice_of_the_largest_shard_is_drawn(built: BuiltRoot) -> None:
    tried = [
        OperatingPoint(kind="hnsw", index_params={"ef_search": ef, "refine": 3}, recall=recall, ms=ms)
        for ef, recall, ms in ((16, 0.9, 0.1), (32, 0.97, 0.2), (64, 0.995, 0.4))
    ]
    choice = {"kind": "hnsw", "index_params": tried[-1].index_params}
    shards = [
        record(0, "small", 10).model_copy(update={"curve": tried[:1]}),
        record(1, "<裤子>", 90_000).model_copy(update={"curve": tried, **choice}),
        record(2, "exact", 200_000),
    ]
    trial = build_figures.trial_shard(manifest(shards))
    assert trial is shards[1]
    text = page(built, trial=trial)
    places = re.findall(r"<circle cx=\"([\d.]+)\" cy=\"([\d.]+)\" r=\"(\d)\"", text)
    assert places == [("207.5", "210.0", "4"), ("345.0", "80.5", "4"), ("620.0", "34.2", "7")]
    assert text.count(", chosen") == 1
    assert "Shard 1 (<bdi>&lt;裤子&gt;</bdi>, 90,000 vectors): hnsw with ef_search 64, refine 3 was chosen" in text
    assert "hnsw ef_search 64, refine 3: recall 0.9950, 0.400 ms a query, chosen" in text
    assert build_figures.trial_shard(manifest(shards[2:])) is None
    assert "<circle" not in page(built)


def test_metrics_are_side_by_side(built: BuiltRoot) -> None:
    text = page(built)
    assert "1,000 photos searched in 2,000 of 3,068; other photos of the same product" in text
    assert re.findall(r"<th class=\"number\">(P@\d+)", text) == ["P@1", "P@10"]
    (row,) = re.findall(r"<tr><td>hamming</td>.*", text)
    assert re.findall(r"0\.\d+ \([^)]*\)", row) == ["0.500 (0.400–0.600)", "0.250 (0.200–0.300)"]
    assert "width:25.0%" in row
    assert "0.815 (0.790–0.840)" in text


def test_failures_by_reason_with_the_latest_of_each(built: BuiltRoot) -> None:
    rows = [("ingest", "not_an_image", f"photo {n:03}") for n in range(300)]
    rows += [("extract", "undecodable", f"image {n}") for n in range(3)]
    failures = figures.failure_summary(ledger(rows))
    assert [(group.reason, group.count) for group in failures.groups] == [
        ("not_an_image", 300),
        ("undecodable", 3),
    ]
    examples = [row.what for row in failures.examples]
    assert examples == [*(f"photo {n:03}" for n in range(299, 289, -1)), "image 2", "image 1", "image 0"]
    text = page(built, rows)
    assert "303 failures" in text
    assert "because of photo 299" in text


def test_examples_of_failures_are_bounded() -> None:
    rows = [("ingest", f"reason {n % 30}", f"photo {n}") for n in range(300)]
    assert len(figures.failure_summary(ledger(rows)).examples) == 20


def test_settings_that_differ_and_no_passwords(built: BuiltRoot) -> None:
    values: dict[str, Any] = {"root": "var", "keyed": {"uri": "hbase://me:secret@host/t"}, "gates": {"min_recall": 0.9}}
    values["warehouse"] = {"options": {"s3.secret-access-key": "secret"}}
    rows = {row.key: row for row in figures.setting_lines(Settings(**values))}
    assert {key for key, row in rows.items() if row.differs} == {
        "keyed.uri",
        "gates.min_recall",
        "warehouse.options",
    }
    assert rows["keyed.uri"].value == "hbase://***@host/t"
    assert rows["warehouse.options"].value == "s3.secret-access-key=***"
    assert (rows["gates.min_recall"].value, rows["gates.min_recall"].default) == ("0.9", "0.95")
    assert "secret" not in {row.value for row in rows.values()}
    assert f"all {len(rows)} settings" in page(built)


def test_samples_are_exact_neighbours_of_six_categories(built: BuiltRoot) -> None:
    drawn = draw(built)
    assert drawn.missing == ""
    assert drawn.searched == 7
    assert len({row[0].category for row in drawn.rows}) == len(drawn.rows) == 6
    keys = list(built.vectors)
    everything = distance.prepared(np.stack(list(built.vectors.values())), "cosine")
    for query, *others in drawn.rows:
        scores = everything @ everything[keys.index(query.image_id)]
        best = [keys[row] for row in np.argsort(-scores) if keys[row] != query.image_id][:6]
        assert [tile.image_id for tile in others] == best
        assert query.score is None
        assert others[0].score == pytest.approx(float(np.sort(scores)[-2]), abs=1e-5)


def test_samples_depend_on_the_build_alone(built: BuiltRoot) -> None:
    again = draw(built)
    assert again == draw(built)
    first = [query.image_id for query, _ in samples.pick(built.builds, built.manifest)]
    chance = [query.image_id for query, _ in samples.pick(built.builds, moved(built, "two"))]
    assert first != chance


def moved(built: BuiltRoot, name: str) -> Manifest:
    folder = built.root / "builds" / SPACE
    if not (folder / name).exists():
        (folder / name).symlink_to(folder / "one")
    return built.manifest.model_copy(update={"build": name})


def test_photos_are_small_and_inline(built: BuiltRoot) -> None:
    drawn = draw(built)
    photo = Image.open(io.BytesIO(base64.b64decode(drawn.rows[0][0].photo or "")))
    assert (photo.format, photo.size) == ("JPEG", (140, 93))
    assert page(built).count("data:image/jpeg;base64,") == 6 * 7


def test_a_photo_that_is_gone_or_broken_leaves_an_empty_frame(tmp_path: Path) -> None:
    built = BuiltRoot(tmp_path, names=("dress",), each=6)
    first, second = sorted(built.photos)[:2]
    built.tables.kept = {key: data for key, data in built.photos.items() if key != first} | {second: b"\xff\xd8broken"}
    text = page(built)
    rows = draw(built).rows
    lost = sum(tile.image_id in (first, second) for row in rows for tile in row)
    assert text.count(">no photo</div>") == lost > 0


def test_few_images_give_few_samples(tmp_path: Path) -> None:
    built = BuiltRoot(tmp_path, names=("dress", "hat"), each=2)
    rows = draw(built).rows
    assert len({row[0].image_id for row in rows}) == len(rows) == 4
    assert {len(row) for row in rows} == {4}


@pytest.mark.parametrize("end", ["faiss", "arrow"])
@pytest.mark.parametrize("content", [None, b"", b"no shard"])
def test_unreadable_shards_cost_only_the_samples(tmp_path: Path, end: str, content: bytes | None) -> None:
    built = BuiltRoot(tmp_path, names=("dress",), each=6)
    built.file(0, end).unlink()
    if content is not None:
        built.file(0, end).write_bytes(content)
    text = page(built)
    assert re.search(r"<p>None: .*shard-?.*; see `likeness verify`</p>", text)
    assert "build in service" in text


def test_an_id_map_of_another_length_is_reported(tmp_path: Path) -> None:
    built = BuiltRoot(tmp_path, names=("dress", "hat"), each=6)
    wrong = built.manifest.shards[1].model_copy(update={"vectors": 7})
    built.manifest = built.manifest.model_copy(update={"shards": [built.manifest.shards[0], wrong]})
    assert "has 6 rows, the manifest says 7" in draw(built).missing


def test_a_large_build_is_searched_in_part() -> None:
    shards = [record(n, "dress", 9) for n in range(6)]  # 2 MB each
    assert [shard.number for shard in samples.within(shards, {4, 2}, 6_000_000)] == [2, 4, 0]
    assert [shard.number for shard in samples.within(shards, {4, 2}, 1)] == [2, 4]
    assert len(samples.within(shards, {4, 2}, 1 << 30)) == 6


def test_write_leaves_the_report_and_the_latest(built: BuiltRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.root)
    path = reports.write_run_report(run_row(), built.settings, built.manifest)
    assert path == "reports/20261121T092347-nightly-5864ad.html"
    text = Path(path).read_text(encoding="utf-8")
    assert Path("reports/latest.html").read_text(encoding="utf-8") == text
    assert "None: the features table has no vector" in text  # this root has no tables
    assert "Not measured: made.up@00000000: 0 photos of active listings" in text
    assert "140 images in 7 shards" in text


def test_summary_is_short_and_says_what_to_try(built: BuiltRoot, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(built.root.parent)
    lines = dict(line.split(maxsplit=1) for line in reports.summary(RAN, built.settings, built.manifest).splitlines())
    assert 6 <= len(lines) <= 12
    assert lines["photos"] == "210 listed, 150 new, 57 existing, 3 rejected, 0 withdrawn"
    assert lines["time"].startswith("start 9.0 s, ingest 10.1 s, extract 7.5 s")
    assert lines["time"].endswith("; 1 min 32 s in all")
    assert lines["build"] == f"{SPACE}/one is in service: 140 images in 7 shards"
    assert lines["recall"].startswith("1.000 (recall@10 of the worst shard, 0: ")
    assert lines["failures"].startswith("4 photos left out; reasons: ")
    assert lines["report"] == f"{built.root.name}/reports/latest.html"
    program, search, photo, flag, root = shlex.split(lines["try"])
    assert (search, flag, root) == ("search", "--root", str(built.root))
    assert Path(photo).is_file()
    assert not Path(photo).is_absolute()
    assert Path(program).name == "likeness"


def test_summary_of_a_clean_run_names_no_failures(built: BuiltRoot) -> None:
    facts = {"ingest": {"rejected": 0}, "extract": {"standing_failures": 0}}
    assert "failures" not in reports.summary(ran(facts), built.settings, built.manifest)


def test_summary_gives_the_terminal_nothing_to_obey(built: BuiltRoot) -> None:
    low = built.manifest.shards[NAMES.index(NAMES[-1])].model_copy(
        update={"categories": {NAMES[-1]: 20}, "recall": Recall(k=10, queries=64, value=0.5)}
    )
    text = reports.summary(RAN, built.settings, built.manifest.model_copy(update={"shards": [low]}))
    assert "\x1b" not in text
    assert "0.500 (recall@10 of the worst shard" in text
    assert "a?[31mred" in text


def test_search_command_without_a_photo_at_hand(tmp_path: Path) -> None:
    built = BuiltRoot(tmp_path, names=("dress",), each=3)
    for photo in (tmp_path / "photos").iterdir():
        photo.unlink()
    assert " PHOTO " in terminal.search_command(built.settings, built.manifest)
    built.file(0, "arrow").unlink()
    assert " PHOTO " in terminal.search_command(built.settings, built.manifest)


def test_search_command_names_weights_of_its_own(built: BuiltRoot) -> None:
    settings = Settings(root=str(built.root), extract={"weights": "/w/my weights.safetensors"})
    words = shlex.split(terminal.search_command(settings, built.manifest))
    assert words[-2:] == ["--set", "extract.weights=/w/my weights.safetensors"]


def test_program_is_named_so_that_a_shell_finds_it(
    built: BuiltRoot, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / ".venv" / "bin" / "likeness"
    program.parent.mkdir(parents=True)
    program.touch()
    monkeypatch.setattr(sys, "prefix", str(tmp_path / ".venv"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "/bin")
    assert terminal.search_command(built.settings, built.manifest).startswith(".venv/bin/likeness search ")
    monkeypatch.setenv("PATH", f"/bin:{program.parent}")
    assert terminal.search_command(built.settings, built.manifest).startswith("likeness search ")


def test_places_are_shown_as_people_type_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert terminal.display_path(f"file://{tmp_path}/a b") == "a b"
    assert terminal.display_path("file:///elsewhere/a") == "/elsewhere/a"
    assert terminal.display_path("hdfs://host/a") == "hdfs://host/a"
