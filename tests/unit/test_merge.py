"""The merge of many shards' hits, against a brute-force model, and sharded search against unsharded."""

from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.hits import hits_of

from likeness.core.settings import Index
from likeness.index import distance
from likeness.index.build import BuildSpec, build_shard
from likeness.index.shard import Hit, LoadedShard, merge
from likeness.index.shard_plan import part_of, plan_shards


def hit(score: float, image: str, category: str = "c", products: tuple[str, ...] = ("p",)) -> Hit:
    return Hit(score, image, category, f"file:///{image}", products)


def test_nearest_first_and_ties_in_the_order_of_the_image_id() -> None:
    shards = [[hit(0.9, "b"), hit(0.5, "a")], [hit(0.9, "a2"), hit(0.7, "z")], []]
    assert [(h.score, h.image_id) for h in merge(shards, 3)] == [(0.9, "a2"), (0.9, "b"), (0.7, "z")]
    assert [h.image_id for h in merge(reversed(shards), 10)] == ["a2", "b", "z", "a"]
    assert merge([], 5) == []


def test_an_image_of_several_categories_is_answered_once() -> None:
    shards = [
        [hit(0.9, "x", "shoe", ("p3", "p1")), hit(0.8, "y", "shoe")],
        [hit(0.9, "x", "hat", ("p2", "p1")), hit(0.7, "w", "hat")],
    ]
    (first, second, third) = merge(shards, 3)
    assert (first.image_id, first.category, first.products) == ("x", "hat", ("p1", "p2", "p3"))
    assert (second.image_id, third.image_id) == ("y", "w")


HITS = st.lists(
    st.lists(
        st.tuples(
            st.sampled_from([0.1, 0.2, 0.3]),
            st.sampled_from("abcdefgh"),
            st.sampled_from(["hat", "shoe", "裤子"]),
            st.frozensets(st.sampled_from(["p1", "p2", "p3"]), min_size=1).map(lambda names: tuple(sorted(names))),
        ),
        max_size=8,
    ),
    max_size=4,
)


@given(HITS, st.integers(1, 10))
def test_merge_is_as_the_brute_force_model(shards: list[list[tuple[float, str, str, tuple[str, ...]]]], k: int) -> None:
    hits = merge([[hit(*values) for values in shard] for shard in shards], k)
    everything = [values for shard in shards for values in shard]
    best = {image: max(score for score, other, *_ in everything if other == image) for _, image, *_ in everything}
    order = sorted(best, key=lambda image: (-best[image], image))[:k]
    assert [(h.image_id, h.score) for h in hits] == [(image, best[image]) for image in order]
    for h in hits:
        mine = [values for values in everything if values[1] == h.image_id]
        assert set(h.products) == {name for *_, names in mine for name in names}
        assert h.category == min(category for score, _, category, _ in mine if score == h.score)


@pytest.mark.parametrize("metric", ["cosine", "l2", "ip"])
def test_sharded_search_equals_unsharded_search(tmp_path: Path, rng: np.random.Generator, metric: str) -> None:
    rows, dim, k = 400, 32, 12
    ids = sorted(rng.bytes(32).hex() for _ in range(rows))
    vectors = rng.standard_normal((rows, dim), np.float32)
    vectors[100:110] = vectors[100]  # ties, in several shards
    categories = rng.choice(["hat", "shoe", "裤子"], (rows, 2))

    def load(members: list[tuple[int, str]], most: int, folder: Path) -> list[LoadedShard]:
        sizes = {name: sum(category == name for _, category in members) for _, name in members}
        loaded = []
        for shard in plan_shards(sizes, most, 60):
            mine: dict[int, list[str]] = {}
            for row, name in members:
                if name in shard.categories and part_of(ids[row], shard.parts) == shard.part:
                    mine.setdefault(row, []).append(name)
            table = pa.table(
                {
                    "image_id": [ids[row] for row in mine],
                    "shown": [
                        [{"category": name, "uri": f"file:///{row}", "products": [f"p{row}"]} for name in names]
                        for row, names in mine.items()
                    ],
                    "vector": [vectors[row].tobytes() for row in mine],
                }
            )
            order = BuildSpec(f"file://{folder}", "b", "s@1", dim, Index(metric=metric))
            loaded.append(LoadedShard(build_shard(shard, table.to_batches(), order), folder, metric))
        return loaded

    members = sorted({(row, str(name)) for row in range(rows) for name in categories[row]})  # some in two categories
    many, one = (
        load(members, 40, tmp_path / "many"),
        load([(row, "all") for row in range(rows)], 1000, tmp_path / "one"),
    )
    assert len(many) > 9
    assert len(one) == 1
    queries = distance.prepared(np.concatenate([rng.standard_normal((10, dim), np.float32), vectors[100:101]]), metric)
    for number in range(len(queries)):
        query = queries[number : number + 1]
        sharded = merge((hits_of(shard, query, k)[0] for shard in many), k)
        whole = merge([hits_of(one[0], query, 50)[0]], k)  # more than k, so that ties are in the order of the merge
        assert [h.image_id for h in sharded] == [h.image_id for h in whole]
        assert [h.score for h in sharded] == pytest.approx([h.score for h in whole], rel=1e-5, abs=1e-5)
        assert [h.products for h in sharded] == [h.products for h in whole]
