"""Further looks of a photo, and what people do to photos."""

import io

import numpy as np
import pytest
from PIL import Image

from likeness.core.settings import Limits
from likeness.images.image import decode
from likeness.images.perturbations import PERTURBATIONS, perturb
from likeness.images.query_views import QueryView, render_views

QUARTERS = np.zeros((8, 8, 3), np.uint8)
QUARTERS[:4, :4], QUARTERS[:4, 4:], QUARTERS[4:, 4:] = (200, 0, 0), (0, 200, 0), (0, 0, 200)


def jpeg(width: int, height: int) -> bytes:
    """A photo whose left is red, whose right is blue, and which grows darker downwards."""
    pixels = np.zeros((height, width, 3), np.uint8)
    fade = np.linspace(255, 60, height, dtype=np.uint8)[:, None]
    pixels[:, : width // 2, 0], pixels[:, width // 2 :, 2] = fade, fade
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


def test_no_looks_are_none() -> None:
    assert render_views(QUARTERS, ()) == []


def test_turned() -> None:
    views = render_views(QUARTERS, [QueryView.TURNED])
    assert len(views) == 3
    for times, picture in enumerate(views, 1):
        assert picture.shape == QUARTERS.shape
        assert np.array_equal(np.rot90(picture, -times), QUARTERS)


def test_sharp_pictures_have_steeper_edges() -> None:
    soft = np.repeat(np.linspace(0, 255, 32, dtype=np.uint8)[None, :, None], 3, axis=2).repeat(32, axis=0)
    soft[:, :8], soft[:, 24:] = 60, 190
    steepest = np.abs(np.diff(soft.astype(int), axis=1)).max()
    for picture in render_views(soft, [QueryView.SHARP]):
        assert np.abs(np.diff(picture.astype(int), axis=1)).max() > steepest


def seen(data: bytes, limits: Limits) -> np.ndarray:
    """A photo decoded, uint8 (height, width, 3)."""
    return np.asarray(decode(data, limits))


@pytest.mark.parametrize("name", PERTURBATIONS)
def test_a_change_is_a_photo_that_differs(name: str) -> None:
    limits = Limits()
    before, data = seen(jpeg(90, 120), limits), perturb(jpeg(90, 120), name, limits)
    after = seen(data, limits)
    assert after.min() < after.max()
    if name == "as it is":
        assert np.abs(after.astype(int) - before).mean() < 3
    elif name == "compressed again":
        assert len(data) != len(jpeg(90, 120))
    else:
        assert after.shape != before.shape or np.abs(after.astype(int) - before).max() > 20


def test_what_changes_do() -> None:
    limits, photo = Limits(), jpeg(90, 120)
    assert seen(perturb(photo, "mirrored", limits), limits)[10, 10].argmax() == 2, "blue is on the left"
    assert seen(perturb(photo, "rotated by 90 degrees", limits), limits).shape == (90, 120, 3)
    assert seen(perturb(photo, "cropped to 60 %", limits), limits).shape == (72, 54, 3)
    assert seen(perturb(photo, "cropped to a corner of 70 %", limits), limits)[..., 0].max() > 200
    barred = seen(perturb(photo, "opaque bar", limits), limits)
    assert barred[60].max() < 30
    assert barred[5].max() > 200
    grey = seen(perturb(photo, "grey", limits), limits).astype(int)
    assert np.ptp(grey, axis=2).max() < 5
    turned = seen(perturb(photo, "rotated by 15 degrees", limits), limits)
    assert turned.shape == (120, 90, 3)
    assert turned[0, 0].max() > 100, "the corners have the colour of the nearest edge, not black"


def test_a_photo_of_one_pixel_can_be_changed() -> None:
    for name in PERTURBATIONS:
        assert seen(perturb(jpeg(2, 1), name, Limits()), Limits()).size
