"""What is kept apart: groups of products, shares, attributes, and bytes that are on both sides."""

import datetime
from collections.abc import Mapping

import numpy as np
import pytest

from likeness.catalog.annotations import Annotation
from likeness.core.errors import DataError, UsageError
from likeness.evaluation.evaluation_sets import EvaluationSet, _share, _where, apart, drawn, groups


def shown(products: str, category: str = "hat", **attributes: str) -> Annotation:
    return Annotation(
        products=frozenset(products.split()), categories=frozenset([category]), attributes=frozenset(attributes.items())
    )


def held(photos: Mapping[str, Annotation]) -> EvaluationSet:
    now = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)
    return EvaluationSet(name="v", version="0001", made=now, made_of="", snapshot=1, photos=photos)


def test_products_that_share_a_photo_are_of_one_group() -> None:
    found = groups({"1": shown("a b"), "2": shown("c"), "3": shown("d b"), "4": shown("d"), "5": shown("e c")})
    assert found["1"] == found["3"] == found["4"] != found["2"] == found["5"]


def test_a_share_keeps_groups_together_and_is_the_same_again(rng: np.random.Generator) -> None:
    photos = {str(n): shown(" ".join(f"p{m}" for m in rng.integers(0, 400, rng.integers(1, 3)))) for n in range(600)}
    chosen = _share(photos, 0.2, 0)
    inside = {product for one in chosen.values() for product in one.products}
    outside = {product for key, one in photos.items() if key not in chosen for product in one.products}
    assert not inside & outside
    assert _share(dict(reversed(photos.items())), 0.2, 0).keys() == chosen.keys()
    assert _share(photos, 0.2, 1).keys() != chosen.keys()


def test_draws_are_even() -> None:
    places = [drawn(str(n), 7) for n in range(4000)]
    assert np.histogram(places, 4, (0, 1))[0].min() > 900


def test_an_attribute_chooses() -> None:
    photos = {"1": shown("a", split="train"), "2": shown("b", split="validation")}
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
        _where({"1": shown("a", split="train"), "2": both}, "split=validation")
    frozen = held({"2": shown("b")})
    with pytest.raises(DataError, match=r"1 photos of evaluation set v@0001 are also shown by products outside"):
        apart({"1": shown("a"), "2": shown("a b")}, frozen)


def test_other_photos_of_a_product_that_is_measured_on_are_left_alone() -> None:
    frozen = held({"2": shown("b")})
    assert apart({"1": shown("a"), "2": shown("b"), "3": shown("b")}, frozen).keys() == {"1"}
