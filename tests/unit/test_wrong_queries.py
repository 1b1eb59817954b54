"""Queries that cannot be meant: an error or a hint says so, never an empty answer that looks well."""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fastapi.testclient import TestClient
from tests.records import shard_record

import likeness
from likeness import storage
from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Settings
from likeness.index import distance
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit
from likeness.serving.hints import meant, suggest
from likeness.serving.http.app import create_app
from likeness.serving.http.error_responses import CODES
from likeness.serving.keyed_reader import KeyedReader
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.loaded_build import LoadedBuild
from likeness.serving.query_encoder import ProductQueryEncoder, check_direction
from likeness.serving.query_terms import ProductTerm, query_vectors
from likeness.serving.responses import Answer
from likeness.serving.result_filters import AttributeLookup
from likeness.serving.root import Root
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service
from likeness.storage import Product
from likeness.storage.items import Item

DIM, SPACE, IMAGES = 4, "s@1", 90
COLOURS = ("red", "green", "light blue")
Search = Callable[..., Answer]


# -- vectors


@pytest.mark.parametrize(
    "vectors",
    [
        [[1e300] * DIM],
        [[1.0] * DIM, [1, 2, -1e39, 4]],
        [[10**400] * DIM],
        np.full(DIM, 1e300),
        [[float("nan")] * DIM],
        [[float("inf")] * DIM],
    ],
)
def test_numbers_beyond_float32_are_refused(vectors: Any) -> None:
    with pytest.raises(UsageError, match=r"vector"):
        query_vectors(vectors, SPACE)


def test_the_number_that_is_refused_is_named() -> None:
    with pytest.raises(UsageError, match=r"vector 2 of 2 holds -1e\+39 at place 2; give finite numbers within float32"):
        query_vectors([[1.0] * DIM, [1, 2, -1e39, 4]], SPACE)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_what_a_metric_cannot_compare_is_refused(metric: str) -> None:
    good, zero, long = np.ones(DIM, np.float32), np.zeros(DIM, np.float32), np.full(DIM, 3e38, np.float32)
    check_direction(np.stack([good, 1e-30 * good]), metric)
    for row, refused, reason in (
        (zero, metric != "l2", "0, which has no direction"),
        (long, metric != "cosine", "too long"),
    ):
        if not refused:
            check_direction(np.stack([good, row]), metric)
            continue
        with pytest.raises(UsageError, match=f"vector 2 of 2 of the query.*{reason}.*{metric}"):
            check_direction(np.stack([good, row]), metric)


@pytest.mark.parametrize("metric", ["cosine", "ip", "l2"])
def test_a_network_that_gives_no_number_is_refused(metric: str) -> None:
    for value in (np.nan, np.inf):
        with pytest.raises(UsageError, match="the vector of the query is not finite"):
            check_direction(np.array([[1, value]], np.float32), metric)


def test_every_direction_has_length_one(rng: np.random.Generator) -> None:
    """Also vectors whose squares float32 cannot hold; the others are as they always were, bit for bit."""
    rows = rng.normal(size=(50, DIM)).astype(np.float32)
    plain = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    assert np.array_equal(distance.prepared(rows, "cosine"), plain)
    scales = np.array([1e-30, 1e-20, 1e37, 1], np.float32)
    for scale in scales:
        assert distance.prepared(rows * scale, "cosine") == pytest.approx(plain, abs=1e-5)
    mixed = distance.prepared(np.concatenate([rows * scale for scale in scales] + [np.zeros((1, DIM))]), "cosine")
    assert mixed.dtype == np.float32
    assert np.linalg.norm(mixed[:-1], axis=1) == pytest.approx(1, abs=1e-5)
    assert not mixed[-1].any()


# -- conditions


@pytest.fixture
def keyed(tmp_path: Path) -> KeyedReader:
    """A store of 90 products, each with a colour and a size; the vectors of the first two are 0, or 0 and another."""
    uri = f"sqlite://{tmp_path}/keyed.sqlite"
    store = storage.keyed(uri, create=True)
    rows = [(name(0), np.zeros(DIM)), (name(1), np.zeros(DIM)), (name(1000), np.ones(DIM))]
    store.put_vectors(SPACE, [(Item(key), row.astype(np.float32)) for key, row in rows])
    store.put_products(
        Product(f"p{row}", "hat", {"colour": COLOURS[row % 3], "Size": str(row % 5)}, [name(row), name(1000 * row)])
        for row in range(IMAGES)
    )
    store.close()
    return KeyedReader(lambda: storage.keyed(uri), 30)


@pytest.fixture
def loaded() -> LoadedBuild:
    """A build of a flat list of hits."""
    hits = [Hit(0.9 - row / 1000, name(row), "hat", "file:///x", (f"p{row}",)) for row in range(IMAGES)]

    class Leaf:
        def search(self, query: LeafQuery) -> LeafAnswer:
            return LeafAnswer([0], len(hits), [hits[: query.k]])

        def sample_vectors(self, rows: int) -> Mapping[str, np.ndarray]:
            return {"hat": np.ones((1, DIM), np.float32)}

    facts = {"build": "b", "run_id": "r", "created": "", "space": SPACE, "dim": DIM, "kind": "auto", "metric": "cosine"}
    sizes = {"images": IMAGES, "products": IMAGES, "vectors": IMAGES}
    more = {"snapshots": {}, "index_settings": {}, "shards": [shard_record(0, "hat", IMAGES)]}
    manifest, leaf = Manifest.model_validate(facts | sizes | more), Leaf()
    return LoadedBuild(manifest, leaf, Root(manifest, leaf), None)  # type: ignore[arg-type]


@pytest.fixture
def search(keyed: KeyedReader, loaded: LoadedBuild) -> Search:
    """Searches the build by parameters."""
    lookup = AttributeLookup(keyed, SPACE)

    def run(**params: Any) -> Answer:
        return loaded.root.search(np.ones(DIM, np.float32), SPACE, SearchParams(**params), lookup=lookup)

    return run


def test_a_product_is_searched_by_its_vectors_with_a_direction(
    keyed: KeyedReader, loaded: LoadedBuild, tmp_path: Path
) -> None:
    encoder = ProductQueryEncoder(keyed, HiddenProducts(str(tmp_path)))
    assert encoder.encode(ProductTerm("p1"), loaded).vectors.tolist() == [[1] * DIM]
    with pytest.raises(UsageError, match="product 'p0' has no vector with a direction"):
        encoder.encode(ProductTerm("p0"), loaded)


def name(row: int) -> str:
    return f"{row:064x}"


@pytest.mark.parametrize(
    ("params", "hint"),
    [
        ({"where": ["Colour=red"]}, r"none of the 90 products .* 'Colour'; did you mean 'colour'\?"),
        ({"where": ["colour =red"]}, r"'colour '; did you mean 'colour'\?"),
        ({"where": ["color=red"]}, r"'color'; did you mean 'colour'\?"),
        ({"where": ["price=9"]}, r"'price'; there are: Size, colour"),
        ({"where": ["colour=red", "size=1"]}, r"'size'; did you mean 'Size'\?"),
        ({"where": ["colour=Red"]}, r"colour='Red'.*did you mean 'red'\?"),
        ({"where": ["colour= red"]}, r"colour=' red'.*did you mean 'red'\?"),
        ({"where": ["colour=purple"]}, r"colour='purple'.*there are: green, light blue, red"),
        ({"where": ["colour=red,green"]}, r"only whole values are compared"),
        ({"where": ["colour=r*"]}, r"only whole values are compared"),
        ({"where": ["Size=<3"]}, r"only whole values are compared"),
        ({"offset": 500}, r"offset 500 is past the last of 90 results"),
        ({"min_score": 1e300}, r"min_score 1e\+300 leaves out every result: the best score is 0\.9000"),
    ],
)
def test_an_empty_answer_says_why(search: Search, params: dict[str, Any], hint: str) -> None:
    answer = search(**params)
    assert not answer.results
    assert any(re.search(hint, one) for one in answer.hints), answer.hints
    assert answer.hints[0] in answer._repr_html_().replace("&#x27;", "'").replace("&lt;", "<").replace("&gt;", ">")


def test_a_good_answer_has_no_hints(search: Search) -> None:
    for params in ({}, {"where": ["colour=red"]}, {"where": ["colour=red", "colour=green"], "k": 60}, {"offset": 85}):
        assert search(**params).results
        assert not search(**params).hints


def test_a_value_in_other_case_is_named_even_if_others_match(search: Search) -> None:
    answer = search(where=["colour=red", "colour=Green"])
    assert len(answer.results) == 10
    assert "did you mean 'green'?" in answer.hints[0]


@pytest.mark.parametrize(
    "where",
    ["Size>3", "Size>=3", "Size<3", "Size <= 3", "colour!=red", "colour==red", "colour~red", "colour~=red"],
)
def test_an_operator_is_refused(search: Search, where: str) -> None:
    with pytest.raises(UsageError, match="there is no operator but =; write name=value"):
        search(where=[where])


@pytest.mark.parametrize(
    ("category", "said"), [("Hat", "'hat'"), ("hats", "'hat'"), ("ALL", "'all'"), ("x", "there are")]
)
def test_a_category_that_does_not_exist_is_refused(search: Search, category: str, said: str) -> None:
    with pytest.raises(UsageError, match=f"{category!r} does not exist.*{said}"):
        search(category=category)


def test_suggestions_are_bounded() -> None:
    names = [f"name-{number}" for number in range(100_000)]
    assert len(suggest("something else", names)) < 300
    assert meant(" NAME-99999 ", names) == "name-99999"


@pytest.mark.parametrize(
    "params",
    [
        {"k": True},
        {"k": 1.5},
        {"min_score": float("nan")},
        {"min_score": "high"},
        {"min_coverage": 1.5},
        {"min_coverage": float("nan")},
        {"near_duplicate": -0.1},
        {"near_duplicate": 7},
        {"near_duplicate": float("nan")},
        {"distinct": "no"},
        {"category": None},
        {"build": 3},
        {"space": None},
    ],
)
def test_a_parameter_of_another_type_or_range_is_refused(params: dict[str, Any]) -> None:
    (key,) = params
    with pytest.raises(UsageError, match=f"{key} is .*; give "):
        SearchParams(**params)


# -- requests


@pytest.fixture(scope="module")
def client(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestClient]:
    """A service without a build: what gets past the checks is told that it is not ready."""
    service = Service(Settings(root=str(tmp_path_factory.mktemp("root"))))
    with TestClient(create_app(service), raise_server_exceptions=False) as opened:
        yield opened


def problem(response: Any) -> tuple[str, str]:
    """Code and detail of an error, which speaks of no command and no flag."""
    body = response.json()
    assert (body["status"], body["title"]) == CODES[body["code"]]
    assert response.status_code == body["status"]
    assert not OPERATOR.search(body["detail"]), body["detail"]
    return body["code"], body["detail"]


OPERATOR = re.compile(r"--[a-z]|`likeness |spark-submit")
"""What only somebody who runs likeness can do."""
FORM = {"Content-Type": "application/x-www-form-urlencoded"}
JSON = {"Content-Type": "application/json"}


@pytest.mark.parametrize(
    ("query", "name"),
    [
        ("products/x/similar?k=1&k=2", "k"),
        ("products/x/similar?category=hat&category=all", "category"),
        ("products/x/similar?distinct=true&distinct=false", "distinct"),
        ("images/x?side=64&side=65", "side"),
        ("catalogue?some=1&some=2", "some"),
        ("catalogue?space=a&space=b", "space"),
    ],
)
def test_a_parameter_twice_is_refused(client: TestClient, query: str, name: str) -> None:
    code, detail = problem(client.get(f"/v1/{query}"))
    assert (code, detail) == ("bad_request", f"{name!r} is given 2 times; give it once")


@pytest.mark.parametrize("name", ["k", "box", "combine", "category", "build"])
def test_a_field_twice_is_refused(client: TestClient, photo: bytes, name: str) -> None:
    parts = [("image", photo), (name, (None, "1")), (name, (None, "2"))]
    assert problem(client.post("/v1/search", files=parts)) == (
        "bad_request",
        f"{name!r} is given 2 times; give it once",
    )


@pytest.mark.parametrize("path", ["vectors", "batch"])
@pytest.mark.parametrize("name", ["k", "space", "vectors"])
def test_a_member_twice_is_refused(client: TestClient, path: str, name: str) -> None:
    members = {"k": "1", "space": '"s@1"', "vectors": "[[1]]"}
    body = ", ".join(f'"{key}": {value}' for key, value in [*members.items(), (name, members[name])])
    answer = client.post(f"/v1/search/{path}", content=f"{{{body}}}", headers=JSON)
    assert problem(answer) == ("bad_request", f"{name!r} is given 2 times; give it once")


@pytest.mark.parametrize("name", ["where", "looks", "image"])
def test_a_list_may_have_several(client: TestClient, photo: bytes, name: str) -> None:
    value = {"where": "a=b", "looks": "turned"}.get(name)
    parts = [("image", photo), *[(name, (None, value) if value else photo)] * 2]
    assert problem(client.post("/v1/search", files=parts))[0] == "not_ready"
    if name == "where":
        assert problem(client.get("/v1/products/x/similar?where=a=b&where=a=c"))[0] == "not_ready"


@pytest.mark.parametrize(
    ("method", "path", "detail"),
    [
        ("GET", "products/x/similar?categroy=hat", "query.categroy: no such parameter; there are: k, category"),
        ("GET", "products/x/similar?K=3", "query.K: no such parameter"),
        ("GET", "images/x?size=64", "query.size: no such parameter; there are: side"),
        ("GET", "catalogue?count=3", "query.count: no such parameter; there are: some, space"),
        ("POST", "search?k=3", "query.k: no such parameter; it belongs into the body"),
        ("POST", "search/vectors?where=a=b", "query.where: no such parameter; it belongs into the body"),
        ("POST", "search/batch?api_key=x", "query.api_key: no such parameter; there are: none"),
    ],
)
def test_an_unknown_parameter_is_refused(client: TestClient, photo: bytes, method: str, path: str, detail: str) -> None:
    content: dict[str, Any] = {"files": {"image": photo}} if path.startswith("search?") else {}
    if path.startswith("search/"):
        content = {"content": json.dumps({"space": "s@1", "vectors": [[1]]}), "headers": JSON}
    code, said = problem(client.request(method, f"/v1/{path}", **content))
    assert (code, said[: len(detail)]) == ("invalid", detail)


def test_monitors_and_pages_may_add_what_they_like(client: TestClient) -> None:
    for path in ("/", "/healthz", "/metrics"):
        assert client.get(f"{path}?x=1&x=2").status_code == 200


@pytest.mark.parametrize("body", [b"{", b"[" * 100_000, b'{"space": "s", "vectors": [[NaN]]}', b"null"])
def test_broken_bodies_are_refused(client: TestClient, body: bytes) -> None:
    assert problem(client.post("/v1/search/vectors", content=body, headers=JSON))[0] in ("invalid", "bad_request")


# -- messages


def test_a_remedy_is_for_who_runs_likeness(client: TestClient, tmp_path: Path) -> None:
    error = DataError("x is damaged", "see `likeness verify`")
    assert (str(error), error.message) == ("x is damaged; see `likeness verify`", "x is damaged")
    assert str(DataError("alone")) == DataError("alone").message == "alone"
    service = Service(Settings(root=str(tmp_path)))
    said: list[str] = []
    service.builds._report = said.append
    service.start()
    try:
        with TestClient(create_app(service)) as started:
            assert problem(started.get("/readyz")) == ("not_ready", "nothing is published yet")
    finally:
        service.stop()
    assert "run ./spark-submit.sh nightly first" in said[0]


REACHED = ("storage/", "models/backbones/", "models/feature_space.py", "models/recipe.py", "index/", "serving/")
"""What queries run through; below, what only commands and jobs, or the start of a service, run through."""
NOT_REACHED = (
    "storage/leases/",
    "models/backbones/caffe.py",
    "serving/leaf_server.py",
    "serving/http/auth.py",
)


def raised(tree: ast.AST) -> Iterator[str]:
    """The literal text of the first argument of each error that is raised."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) and node.exc.args:
            texts = (one for one in ast.walk(node.exc.args[0]) if isinstance(one, ast.Constant))
            yield "".join(str(one.value) for one in texts)


LIB = Path(likeness.__file__).parent


@pytest.mark.parametrize("module", sorted(str(path.relative_to(LIB)) for path in LIB.rglob("*.py")))
def test_errors_of_queries_speak_of_no_flags(module: str) -> None:
    if module.startswith(REACHED) and not module.startswith(NOT_REACHED):
        for text in raised(ast.parse((LIB / module).read_text(encoding="utf-8"))):
            assert not OPERATOR.search(text), f"{module}: {text!r}: pass the remedy as the second argument"
