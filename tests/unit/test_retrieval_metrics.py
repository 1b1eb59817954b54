"""Neighbours and what they are worth, against plain loops and figures worked out by hand."""

import math

import faiss
import numpy as np
import pytest

from likeness.catalog.samples import Labels
from likeness.core import statistics
from likeness.evaluation import retrieval_metrics
from likeness.evaluation.retrieval_metrics import QuerySet
from likeness.index.hamming_codes import encode, hamming_distances
from likeness.index.kinds import KINDS
from likeness.index.pca import principal_axes

ROWS, DIM = 700, 48


def labels(*rows: tuple[str, str]) -> Labels:
    """(categories, products) of each row, each letter one."""
    return Labels([frozenset(c) for c, _ in rows], [frozenset(p) for _, p in rows])


@pytest.fixture
def vectors(rng: np.random.Generator) -> np.ndarray:
    """As a layer gives them: never negative, many zeros, of many lengths."""
    features = np.maximum(rng.normal(0.2, 1, (ROWS, DIM)), 0) * rng.lognormal(0, 0.5, (ROWS, 1))
    return features.astype(np.float32)


@pytest.fixture
def listed(rng: np.random.Generator) -> Labels:
    """Four categories, some photos of two; products of one to three photos, some photos of two products."""
    categories = [frozenset(rng.choice(list("abcd"), rng.integers(1, 3)).tolist()) for _ in range(ROWS)]
    products = [frozenset({f"p{row // 3}", *(["twin"] if row in (5, 600) else [])}) for row in range(ROWS)]
    return Labels(categories, products)


def bits_by_hand(vectors: np.ndarray) -> np.ndarray:
    """Which side of its median each turned main axis is on, bool (n, axes)."""
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    rows = (vectors / np.where(lengths == 0, 1, lengths)).astype(np.float32)
    turned = principal_axes(rows, 256, rotated=True).apply(rows)
    return turned >= np.median(turned, axis=0)


def distances_by_hand(vectors: np.ndarray, metric: str) -> np.ndarray:
    """float64 (n, n), lower is nearer."""
    if metric == "hamming":
        on = bits_by_hand(vectors)
        return np.array([(on != row).sum(1) for row in on], np.float64)
    rows = vectors.astype(np.float64)
    if metric == "cosine":
        rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.array([np.sqrt(((rows - row) ** 2).sum(1)) for row in rows])


@pytest.mark.parametrize("metric", retrieval_metrics.METRICS)
def test_neighbours_and_precision_are_those_of_a_plain_loop(vectors: np.ndarray, listed: Labels, metric: str) -> None:
    queries = retrieval_metrics.draw_queries(listed, 150, seed=3)
    measured, nearest = retrieval_metrics.measure(vectors, listed, queries, metric)
    apart = distances_by_hand(vectors, metric)
    shares = {k: [] for k in retrieval_metrics.KS}
    assert len(queries.rows) == len(set(queries.rows.tolist())) == 150
    for query, near in zip(queries.rows, nearest, strict=True):
        others = [row for row in range(ROWS) if not listed.products[query] & listed.products[row]]
        truth = sorted(others, key=lambda row: (apart[query, row], row))[:10]
        assert near.tolist() == truth
        for k in retrieval_metrics.KS:
            shares[k].append(sum(bool(listed.categories[row] & listed.categories[query]) for row in truth[:k]) / k)
    for k in retrieval_metrics.KS:
        assert measured.precision[k].value == pytest.approx(np.mean(shares[k]), abs=1e-12)
    assert measured.metric == metric
    assert measured.ms > 0


def test_queries_in_pieces_are_queries_at_once(
    vectors: np.ndarray, listed: Labels, monkeypatch: pytest.MonkeyPatch
) -> None:
    queries = retrieval_metrics.draw_queries(listed, 100)
    ranked = retrieval_metrics.scores(vectors, "l2")
    whole = retrieval_metrics.neighbours(ranked, queries, 7)
    monkeypatch.setattr(retrieval_metrics, "_VALUES", 3 * ROWS)
    assert [near.tolist() for near in retrieval_metrics.neighbours(ranked, queries, 7)] == [
        near.tolist() for near in whole
    ]


def test_bits_are_those_of_the_index_kind(vectors: np.ndarray) -> None:
    codes = encode(vectors)
    assert codes.dtype == np.uint64
    on = np.unpackbits(codes.view(np.uint8), axis=1, bitorder="little")
    assert np.array_equal(on[:, :DIM], bits_by_hand(vectors))
    assert not on[:, DIM:].any()
    assert abs(on[:, :DIM].mean() - 0.5) < 0.01  # plain signs of what is never negative would all be one
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    index = KINDS["hamming"].make(vectors / lengths, ROWS, faiss.METRIC_INNER_PRODUCT)
    candidates = faiss.downcast_index(index.base_index)
    candidates.add(vectors / lengths)
    expected, _ = candidates.search((vectors / lengths)[:20], ROWS)
    assert np.array_equal(expected, np.sort(hamming_distances(codes[:20], codes), axis=1))


def test_precision_by_hand() -> None:
    """On a line: 0 and 1 are hats, 3 is both, 7 and 8 are shoes, 8.5 is another photo of the hat at 0."""
    rows = labels(("h", "a"), ("h", "b"), ("hs", "c"), ("s", "d"), ("s", "e"), ("h", "a"))
    places = np.array([[0, 1], [1, 1], [3, 1], [7, 1], [8, 1], [8.5, 1]], np.float32)
    queries = QuerySet(np.array([0, 3]), [np.array([0, 5]), np.array([3])], 6)
    near = retrieval_metrics.neighbours(retrieval_metrics.scores(places, "l2"), queries, 4)
    assert [row.tolist() for row in near] == [[1, 2, 3, 4], [4, 5, 2, 1]]
    assert retrieval_metrics.precision_at(rows, queries, near, (1, 2, 3, 4)).tolist() == [
        [1, 1, 2 / 3, 2 / 4],
        [1, 0.5, 2 / 3, 0.5],
    ]
    assert [
        row.tolist() for row in retrieval_metrics.neighbours(retrieval_metrics.scores(places, "l2"), queries, 9)
    ] == [
        [1, 2, 3, 4],
        [4, 5, 2, 1, 0],
    ]
    assert retrieval_metrics.precision_at(rows, queries, near, (9,)).tolist() == [
        [2 / 4],
        [2 / 4],
    ]  # of all, if there are fewer


def test_lengths_mislead_l2_alone() -> None:
    """Two directions, each at length 1 and 10: by L2 the short ones are nearest to each other."""
    rows = labels(("a", "1"), ("a", "2"), ("b", "3"), ("b", "4"))
    vectors = np.array([[1, 0], [10, 0], [0.8, 0.6], [8, 6]], np.float32)
    queries = retrieval_metrics.draw_queries(rows)
    precision = {
        m: retrieval_metrics.measure(vectors, rows, queries, m)[0].precision[1].value for m in ("cosine", "l2")
    }
    assert precision == {"cosine": 1, "l2": 0}


def test_a_query_without_anybody_to_answer_does_not_ask() -> None:
    rows = labels(("h", "a"), ("h", "ab"), ("s", "b"))
    assert sorted(retrieval_metrics.draw_queries(rows).rows.tolist()) == [0, 2]
    assert {len(out) for out in retrieval_metrics.draw_queries(rows).without} == {2}
    assert not len(retrieval_metrics.draw_queries(labels(("h", "a"), ("s", "a"))).rows)


def test_who_asks_is_drawn_by_the_seed(listed: Labels) -> None:
    one, same, other = (retrieval_metrics.draw_queries(listed, 50, seed).rows.tolist() for seed in (1, 1, 2))
    assert one == same
    assert set(one) != set(other)
    assert sorted(retrieval_metrics.draw_queries(listed, 10_000).rows.tolist()) == list(range(ROWS))


def test_overlap_by_hand() -> None:
    one = [np.array([1, 2, 3, 4]), np.array([5, 6])]
    other = [np.array([2, 1, 9, 8]), np.array([5, 7])]
    overlap = retrieval_metrics.overlap(one, other, (1, 2, 4))
    assert [overlap[k].value for k in (1, 2, 4)] == [0.5, 0.75, 0.5]


def test_intervals_are_those_of_theory(rng: np.random.Generator) -> None:
    coins = np.column_stack([rng.random(400) < 0.3, np.ones(400)]).astype(np.float64)
    figure, sure = statistics.figures(coins)
    mean = coins[:, 0].mean()
    assert figure.value == pytest.approx(mean)
    wide = 1.96 * math.sqrt(mean * (1 - mean) / 400)
    assert (figure.low, figure.high) == pytest.approx((mean - wide, mean + wide), abs=0.2 * wide)
    assert (sure.value, sure.low, sure.high) == (1, 1, 1)
    assert statistics.figures(coins) == [figure, sure]


def test_intervals_hold_the_truth_as_often_as_they_say(rng: np.random.Generator) -> None:
    covered = [
        one.low <= 0.4 <= one.high
        for _ in range(20)
        for one in statistics.figures((rng.random((200, 10)) < 0.4).astype(np.float64))
    ]
    assert 0.9 <= np.mean(covered) <= 0.99


def test_zero_vectors_are_nobodys_neighbour_by_cosine(vectors: np.ndarray, listed: Labels) -> None:
    zero = {3, 400}
    vectors[sorted(zero)] = 0
    queries = retrieval_metrics.draw_queries(listed, ROWS)
    for metric in retrieval_metrics.METRICS:
        nearest = retrieval_metrics.measure(vectors, listed, queries, metric)[1]
        assert all(len(near) == 10 for near in nearest)
        if metric == "cosine":
            answers = zip(queries.rows, nearest, strict=True)
            assert not zero & {row for query, near in answers if query not in zero for row in near.tolist()}
