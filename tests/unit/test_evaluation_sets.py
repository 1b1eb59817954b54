"""What is kept apart: groups of products, shares, attributes, and bytes that are on both sides."""

import datetime
from collections.abc import Mapping

import numpy as np
import pytest

from likeness.catalog.annotations import Annotation
from likeness.core.errors import DataError, UsageError
from likeness.evaluation.evaluation_sets import EvaluationSet, _share, _where, exclude, groups, uniform


def photo(products: str, category: str = "hat", **attributes: str) -> Annotation:
    return Annotation(
        products=frozenset(products.split()), categories=frozenset([category]), attributes=frozenset(attributes.items())
    )


def evaluation_set(photos: Mapping[str, Annotation]) -> EvaluationSet:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return EvaluationSet(name="v", version="0001", created=now, made_of="", snapshot=1, photos=photos)


def test_products_that_share_a_photo_are_of_one_group() -> None:
    names = groups({"1": photo("a b"), "2": photo("c"), "3": photo("d b"), "4": photo("d"), "5": photo("e c")})
    assert names["1"] == names["3"] == names["4"] != names["2"] == names["5"]


def test_a_share_keeps_groups_together_and_is_the_same_again(rng: np.random.Generator) -> None:
    photos = {str(n): photo(" ".join(f"p{m}" for m in rng.integers(0, 400, rng.integers(1, 3)))) for n in range(600)}
    chosen = _share(photos, 0.2, 0)
    inside = {product for one in chosen.values() for product in one.products}
    outside = {product for key, one in photos.items() if key not in chosen for product in one.products}
    assert not inside & outside
    assert _share(dict(reversed(photos.items())), 0.2, 0).keys() == chosen.keys()
    assert _share(photos, 0.2, 1).keys() != chosen.keys()


def test_draws_are_even() -> None:
    places = [uniform(str(n), 7) for n in range(4000)]
    assert np.histogram(places, 4, (0, 1))[0].min() > 900


def test_an_attribute_chooses() -> None:
    photos = {"1": photo("a", split="train"), "2": photo("b", split="validation")}
    assert _where(photos, "split=validation").keys() == {"2"}
    with pytest.raises(UsageError, match=r"split=test: no listing has it; split is one of: train, validation"):
        _where(photos, "split=test")
    with pytest.raises(UsageError, match=r"'split' is not attribute=value"):
        _where(photos, "split")


def test_the_same_bytes_on_both_sides_are_refused() -> None:
    both = Annotation(
        products=frozenset(["a", "b"]),
        categories=frozenset(["hat"]),
        attributes=frozenset([("split", "train"), ("split", "validation")]),
    )
    with pytest.raises(DataError, match=r"1 photos are shown by listings with split=validation and by others \(2\)"):
        _where({"1": photo("a", split="train"), "2": both}, "split=validation")
    frozen = evaluation_set({"2": photo("b")})
    with pytest.raises(DataError, match=r"1 photos of evaluation set v@0001 are also shown by products outside"):
        exclude({"1": photo("a"), "2": photo("a b")}, frozen)


def test_other_photos_of_a_product_that_is_measured_on_are_left_alone() -> None:
    frozen = evaluation_set({"2": photo("b")})
    assert exclude({"1": photo("a"), "2": photo("b"), "3": photo("b")}, frozen).keys() == {"1"}
