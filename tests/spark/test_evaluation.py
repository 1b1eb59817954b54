"""Spaces compared and builds judged on a real root, against plain loops over what the tables hold."""

import csv
import io
import json
import math
import shutil
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from likeness import storage
from likeness.catalog import samples
from likeness.core import uris
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import load_settings
from likeness.evaluation.judged_search import evaluate
from likeness.index.builds import Builds
from likeness.serving.encoder import Encoder
from likeness.serving.leaf import Leaf
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.spark.run import Run
from likeness.storage.items import WHOLE_PHOTO
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, LISTINGS

from .conftest import PROJECT, SAMPLE, run

pytestmark = pytest.mark.slow

NAMES, EACH = ("dress", "hat", "shoes", "skirt"), 7
OTHER, OTHER_DIM = "made.up@00000000", 24
K = 5


def _source(folder: Path) -> Path:
    """Photos 0 and 1 of each category are one product; hat 2 is a shoe as well."""
    rows = []
    for name in NAMES:
        (folder / name).mkdir(parents=True)
        for number, photo in enumerate(sorted((SAMPLE / name).iterdir())[:EACH]):
            place = f"{name}/{number}.jpg"
            shutil.copy(photo, folder / place)
            rows.append((f"{name}-{max(1, number)}", place, name, "true"))
    rows.append(("twin", "hat/2.jpg", "shoes", "true"))
    _catalogue(folder, rows)
    return folder


def _catalogue(folder: Path, rows: Iterable[Sequence[str]]) -> None:
    with (folder / "catalogue.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("product_id", "image", "category", "active"), *rows])


@pytest.fixture(scope="module")
def settings(tmp_path_factory, model_cache):
    """A root with two builds, skirt 6 withdrawn in the second, and a second space that holds most of its photos."""
    folder = tmp_path_factory.mktemp("evaluated")
    source = _source(folder / "photos")
    flags = {"root": str(folder / "root"), "source.uri": str(source), "date": "2026-01-02"}
    settings = load_settings(None, flags, (f"extract.cache={model_cache}", "index.max_shard_vectors=4"))
    run(settings)
    _catalogue(source, [("skirt-6", "skirt/6.jpg", "skirt", "false")])
    run(settings)
    keys = sorted(_vectors(settings, Builds(settings.root).find().space))[3:]
    vectors = np.maximum(np.random.default_rng(3).normal(0.3, 1, (len(keys), OTHER_DIM)), 0).astype(np.float32)
    columns = {
        "image_id": keys,
        "region": [WHOLE_PHOTO] * len(keys),
        "space": [OTHER] * len(keys),
        "ingest_date": [settings.date] * len(keys),
        "vector": vectors.tolist(),
        "norm": np.linalg.norm(vectors, axis=1),
    }
    schema = FEATURES.arrow()
    rows = pa.table([pa.array(columns[field.name], field.type) for field in schema], schema)
    pq.write_table(rows, buffer := io.BytesIO())
    with Run("seed", settings, ()) as seeding:
        uri = uris.join(seeding.tables.location(FEATURES), "data", "seeded.parquet")
        storage.files(uri).write(uri, buffer.getvalue())
        seeding.tables.append_files(FEATURES, [uri], (OTHER, str(settings.date)))
    return settings


def _vectors(settings, space):
    rows = TableReader(settings).read(FEATURES, ("image_id", "space", "vector")).to_pylist()
    return {row["image_id"]: np.array(row["vector"], np.float64) for row in rows if row["space"] == space}


def _listed(settings):
    """Active (image_id, product_id, category, uri)."""
    rows = TableReader(settings).read(LISTINGS).to_pylist()
    return [(r["image_id"], r["product_id"], r["category"], r["uri"]) for r in rows if r["active"]]


def likeness(settings, command, *words, code=0):
    words = [*words, "--root", settings.root, "--set", f"extract.cache={settings.extract.cache}"]
    called = [sys.executable, "-m", "likeness.cli", command, *words]
    done = subprocess.run(called, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == code, done.stderr
    return done.stdout if not code else done.stderr


# -- spaces


def _by_cosine(vectors, products):
    """image_id to the others of other products, the nearest first."""
    unit = {key: vector / np.linalg.norm(vector) for key, vector in vectors.items()}
    return {
        key: sorted(
            (other for other in unit if not products[key] & products[other]),
            key=lambda other: -float(unit[key] @ unit[other]),
        )
        for key in unit
    }


def test_two_spaces_side_by_side(settings):
    first = Builds(settings.root).find().space
    comparison = json.loads(likeness(settings, "compare", "--space", first, "--space", "made.up", "--json"))
    listed = _listed(settings)
    listed_images = {key for key, *_ in listed}
    kept = {space: _vectors(settings, space) for space in (first, OTHER)}
    both = listed_images & kept[first].keys() & kept[OTHER].keys()
    assert len(listed_images & kept[first].keys()) > len(both)
    products = {key: {row[1] for row in listed if row[0] == key} for key in both}
    categories = {key: {row[2] for row in listed if row[0] == key} for key in both}
    assert (comparison["photos"], comparison["queries"]) == (len(both), len(both))
    near = {
        space: _by_cosine({key: vector for key, vector in kept[space].items() if key in both}, products)
        for space in kept
    }
    for k in (1, 5, 10):
        for one in comparison["spaces"]:
            agreed = [
                sum(bool(categories[key] & categories[other]) for other in others[:k]) / k
                for key, others in near[one["space"]].items()
            ]
            cosine = one["metrics"][0]
            assert cosine["metric"] == "cosine"
            assert cosine["precision"][str(k)]["value"] == pytest.approx(np.mean(agreed))
            assert cosine["precision"][str(k)]["low"] <= np.mean(agreed) <= cosine["precision"][str(k)]["high"]
        shared = [len({*near[first][key][:k]} & {*near[OTHER][key][:k]}) / k for key in both]
        assert comparison["overlap"][str(k)]["value"] == pytest.approx(np.mean(shared))
    assert [one["dim"] for one in comparison["spaces"]] == [1280, OTHER_DIM]
    assert [one["bytes_per_vector"]["flat"] for one in comparison["spaces"]] == [4 * 1280 + 8, 4 * OTHER_DIM + 8]
    runs = json.loads(likeness(settings, "runs", "list", "--json"))
    facts = json.loads(likeness(settings, "runs", "show", runs[0]["run_id"], "--json"))["facts"]["extract"]
    assert comparison["spaces"][0]["seconds_per_photo"] == pytest.approx(facts["seconds"] / facts["pending"], abs=1e-5)
    assert comparison["spaces"][0]["run_id"] == runs[0]["run_id"]
    assert comparison["spaces"][1]["seconds_per_photo"] is None


def test_the_report_shows_the_metrics_side_by_side(settings):
    text = Path(settings.root, "reports", "latest.html").read_text()
    comparison = json.loads(likeness(settings, "compare", "--json"))  # the space in service
    assert [one["metric"] for one in comparison["spaces"][0]["metrics"]] == ["cosine", "l2", "hamming"]
    assert not comparison["overlap"]
    for one in comparison["spaces"][0]["metrics"]:
        cells = "".join(f'<td class="number">{f["value"]:.3f} ' for f in one["precision"].values())
        assert all(cell in text for cell in cells.split("<td ")[1:])
    assert f"{comparison['queries']} photos searched in {comparison['photos']}; other photos" in text
    spoken = likeness(settings, "compare", "--space", comparison["spaces"][0]["space"], "--space", OTHER)
    assert "never measured here" in spoken
    assert "overlap of their nearest neighbours by cosine: @1 0." in spoken


def test_a_space_that_is_not_there_is_named_with_those_that_are(settings):
    comparison = likeness(settings, "compare", "--space", "vgg16.fc6", code=2)
    assert "--space 'vgg16.fc6': no such vectors" in comparison
    assert OTHER in comparison
    assert "name two" in likeness(settings, "compare", *("--space", "a", "--space", "b", "--space", "c"), code=2)


def test_a_sample_is_of_shown_photos_in_the_order_of_their_hashes(settings):
    space, warehouse = Builds(settings.root).find().space, TableReader(settings)
    listed_images = sorted({row[0] for row in _listed(settings)})
    kept = _vectors(settings, space)
    assert len(listed_images) == len(kept) - 1 == len(NAMES) * EACH - 1
    whole = samples.draw_sample(warehouse, [space])
    assert (whole.image_ids, whole.of) == (listed_images, len(listed_images))
    row = whole.image_ids.index(_photo_of(settings, "hat/2.jpg"))
    assert (whole.labels.categories[row], whole.labels.products[row]) == ({"hat", "shoes"}, {"hat-2", "twin"})
    few = samples.draw_sample(warehouse, [space], most=5)
    assert (few.image_ids, few.of) == (listed_images[:5], len(kept))
    assert few.labels.products == whole.labels.products[:5]
    files = few.files[space]
    vectors = samples.vector_matrix(files, space, few.image_ids[::-1])
    assert np.array_equal(vectors, np.stack([kept[key] for key in listed_images[4::-1]]).astype(np.float32))
    assert len(samples.draw_sample(warehouse, [space], files=1).files[space]) == 1 <= len(files)
    with pytest.raises(DataError, match=r"no vector of .* for fff"):
        samples.vector_matrix(files, space, [*listed_images, "f" * 64])


# -- judgements


def _photo_of(settings, place):
    return next(key for key, _, _, uri in _listed(settings) if uri.endswith(f"/{place}"))


def _judge(folder, rows):
    path = folder / "queries.csv"
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("query", "product_id", "relevance"), *rows])
    return path


def _ranking(settings, vector, searched, own_image, own_product):
    """All products of the searched categories, by a loop over all listings."""
    listed, vectors = _listed(settings), _vectors(settings, Builds(settings.root).find().space)
    score = {key: float(v @ vector / np.linalg.norm(v) / np.linalg.norm(vector)) for key, v in vectors.items()}
    ranking = []
    for key in sorted(score, key=lambda key: -score[key]):
        products = sorted({product for image, product, category, _ in listed if image == key and category in searched})
        ranking += [p for p in products if p not in ranking and p != own_product and key != own_image]
    return ranking


def _worth(ranking, judged, k):
    """Recall@k and nDCG@k."""
    gains = [judged.get(product, 0) for product in ranking]
    best = sorted(judged.values(), reverse=True)[:k]
    discounted = [sum(g / math.log2(2 + place) for place, g in enumerate(each)) for each in (gains, best)]
    relevant = [product for product, gain in judged.items() if gain > 0]
    return sum(p in ranking for p in relevant) / len(relevant), discounted[0] / discounted[1]


@pytest.mark.parametrize("k", [5, 20])
def test_a_build_is_judged_as_it_is_searched(settings, tmp_path, k):
    builds, manifest = Builds(settings.root), Builds(settings.root).find()
    outside = sorted((SAMPLE / "hat").iterdir())[EACH + 2]
    shutil.copy(outside, tmp_path / "outside.jpg")
    image = _photo_of(settings, "hat/2.jpg")
    queries = {
        "outside.jpg": {"hat-1": 1, "hat-2": 3, "hat-3": 0.5, "dress-4": 0, "sold-out": 2},
        image: {"hat-3": 1, "hat-4": 1, "hat-5": 1, "skirt-6": 1},
        "shoes-1": {"shoes-2": 1, "shoes-3": 2, "shoes-4": 1, "twin": 1},
        "dress-4": {f"{name}-5": 1 for name in NAMES},
        "skirt-2": {"skirt-1": 1, "skirt-3": 1, "dress-1": 1, "dress-2": 1, "dress-3": 1, "dress-5": 1},
    }
    path = _judge(tmp_path, [(q, p, "" if r == 1 else r) for q, of in queries.items() for p, r in of.items()])
    vectors = _vectors(settings, manifest.space)
    encoded = {
        "outside.jpg": (Encoder(settings, manifest.space).encode(outside.read_bytes())[0], "", ""),
        image: (vectors[image], image, ""),
        "shoes-1": (vectors[_photo_of(settings, "shoes/0.jpg")], "", "shoes-1"),
        "dress-4": (vectors[_photo_of(settings, "dress/4.jpg")], "", "dress-4"),
        "skirt-2": (vectors[_photo_of(settings, "skirt/2.jpg")], "", "skirt-2"),
    }
    result = json.loads(likeness(settings, "evaluate", "--judgements", str(path), "-k", str(k), "--json"))
    root = Root(manifest, Leaf(builds, manifest))
    for category in ("all", "auto"):
        rows = []
        for query, judged in queries.items():
            vector, *own = encoded[query]
            answer = root.search(vector.astype(np.float32), manifest.space, SearchParams(k, category))
            ranking = _ranking(settings, vector.astype(np.float64), answer.category.searched, *own)[:k]
            rows.append(_worth(ranking, judged, k))
        for name, expected in zip(("recall", "ndcg"), np.mean(rows, axis=0), strict=True):
            figure = result["figures"][category][name]
            assert figure["value"] == pytest.approx(expected, abs=1e-9)
            assert figure["low"] <= figure["value"] <= figure["high"]
    assert 0 < result["figures"]["all"]["recall"]["value"] < 1
    assert result["build"] == manifest.path
    assert (result["figures"]["auto"] == result["figures"]["all"]) == (k == 5)
    assert result["queries"] == {"photo": 1, "image": 1, "product": 3}
    assert result["judged"] == sum(map(len, queries.values()))
    assert result["absent"] == {"skirt-6": "not in the build", "sold-out": "not in the build"}


def test_hidden_products_are_named_and_not_found(settings, tmp_path):
    path = _judge(tmp_path, [("hat-2", "hat-3", 1)])
    whole = evaluate(settings, "", path, 100)
    assert (whole.absent, whole.figures["all"]["recall"].value) == ({}, 1)
    likeness(settings, "hide", "hat-3")
    result = evaluate(settings, Builds(settings.root).find().build, path, 100)
    assert (result.absent, result.figures["all"]["recall"].value) == ({"hat-3": "hidden"}, 0)
    assert "1 judged product cannot be found, and counts as not found: hat-3 (hidden)" in likeness(
        settings, "evaluate", "--judgements", str(path)
    )
    likeness(settings, "show", "hat-3")


def test_a_build_is_judged_by_its_name_and_its_own_past(settings, tmp_path):
    """The build before still holds what was withdrawn since."""
    before, now = Builds(settings.root).all()
    path = _judge(tmp_path, [("skirt-5", "skirt-6", 1)])
    first, second = (evaluate(settings, name.partition("/")[2], path, 100) for name in (before, now))
    assert (first.build, first.absent, first.figures["all"]["recall"].value) == (before, {}, 1)
    assert (second.build, second.absent, second.figures["all"]["recall"].value) == (
        now,
        {"skirt-6": "not in the build"},
        0,
    )


def test_a_path_is_a_photo_and_an_id_is_the_catalogue_whatever_files_there_are(settings, tmp_path):
    """A file with the name of a product does not change what the product's name means."""
    photo = sorted((SAMPLE / "hat").iterdir())[2]
    shutil.copy(photo, tmp_path / "hat-2")
    assert evaluate(settings, "", _judge(tmp_path, [("hat-2", "hat-3", 1)]), K).queries["product"] == 1
    result = evaluate(settings, "", _judge(tmp_path, [("./hat-2", "hat-2", 1)]), 1)
    assert result.queries == {"photo": 1, "image": 0, "product": 0}
    assert result.figures["all"]["recall"].value == 1  # nothing is left out of a photo's answer


def test_every_query_that_cannot_be_asked_is_told_at_once(settings, tmp_path):
    (tmp_path / "broken.jpg").write_bytes(b"no photo")
    image = _photo_of(settings, "hat/2.jpg")
    rows = [
        ("hat-1", "hat-1", 1),
        ("nowhere.jpg", "hat-1", 1),
        ("f" * 64, "hat-1", 1),
        ("broken.jpg", "hat-1", 1),
        (image, "twin", 1),
        ("hat-3", "hat-1", "much"),
        ("skirt-6", "skirt-1", 1),
    ]
    path = _judge(tmp_path, rows)
    errors = likeness(settings, "evaluate", "--judgements", str(path), code=2).splitlines()
    assert errors[0] == f"error: --judgements {path} has 7 bad rows; nothing is evaluated:"
    for line, (number, words) in zip(
        errors[1:],
        [
            (2, "product 'hat-1' is the query itself; judge another"),
            (
                3,
                f"query 'nowhere.jpg' is neither a product of build {Builds(settings.root).find().build} nor a file in",
            ),
            (4, f"image {'f' * 64} is not in build"),
            (5, "photo 'broken.jpg' cannot be searched with"),
            (6, "product 'twin' has no photo but the query"),
            (7, "relevance 'much'"),
            (8, "query 'skirt-6' is neither"),
        ],
        strict=True,
    ):
        assert line.startswith(f"  line {number}: {words}")
    with pytest.raises(UsageError, match="build 'none' is not in"):
        evaluate(settings, "none", path, K)


# -- other readers


@pytest.mark.parametrize("exported", [True, False])
def test_embedding_reader_opens_the_vectors(settings, tmp_path, exported):
    """What `export` writes, and the plain files of a snapshot."""
    from embedding_reader import EmbeddingReader

    space = Builds(settings.root).find().space
    if exported:
        likeness(settings, "export", str(tmp_path / "vectors.parquet"), "--space", space)
    else:
        for number, (uri, _) in enumerate(TableReader(settings).parts(FEATURES, f"space = '{space}'")):
            shutil.copy(uris.local_path(uri), tmp_path / f"{number}.parquet")
    reader = EmbeddingReader(
        str(tmp_path), file_format="parquet", embedding_column="vector", meta_columns=["image_id", "norm"]
    )
    kept = _vectors(settings, space)
    assert (reader.count, reader.dimension) == (len(kept), 1280)
    read_vectors = {}
    for vectors, facts in reader(batch_size=10, show_progress=False):
        assert vectors.dtype == np.float32
        read_vectors |= dict(zip(facts["image_id"], vectors, strict=True))
        assert np.allclose(np.linalg.norm(vectors.astype(np.float64), axis=1), facts["norm"].astype(float))
    assert read_vectors.keys() == kept.keys()
    assert all(np.array_equal(read_vectors[key], kept[key].astype(np.float32)) for key in kept)
