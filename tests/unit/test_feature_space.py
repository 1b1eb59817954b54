"""Names of spaces: what they may ask for, what it gives, and what is refused."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likeness.core.errors import UsageError
from likeness.core.settings import Limits
from likeness.images.image import Preprocessing, decode, resize_and_crop
from likeness.models.backbones import Space, resolve
from likeness.models.backbones.network import Dense
from likeness.models.runtimes.torch_any import EmbeddingModel


@pytest.fixture(scope="module")
def alexnet(weights: dict[str, str]) -> str:
    return weights["alexnet"]


@pytest.fixture(scope="module")
def picture(sample: Path) -> Image.Image:
    return decode(min(sample.glob("hat/*.jpg")).read_bytes(), Limits())


def vectors(space: Space, *images: np.ndarray) -> np.ndarray:
    with torch.inference_mode():
        rows: np.ndarray = EmbeddingModel(space, "").eval()(torch.from_numpy(np.stack(images))).numpy()
    return rows


def cosine(one: np.ndarray, other: np.ndarray) -> float:
    return float(one @ other / np.linalg.norm(one) / np.linalg.norm(other))


@pytest.mark.parametrize(
    ("name", "dim"),
    [
        ("alexnet.fc6", 4096),
        ("alexnet.pool5", 9216),
        ("alexnet.pool5.mean", 256),
        ("alexnet.conv5.gem.root", 256),
        ("alexnet.conv5.gram", 256 * 257 // 2),
        ("alexnet.fc6.l2", 4096),
        ("alexnet.fc6+fc7", 8192),
        ("alexnet.fc6+conv5.max.l2", 4096 + 256),
        ("alexnet-squash.fc6", 4096),
        ("alexnet-448.fc6.max", 4096),
        ("alexnet-448-pad-flip.conv5.gem+fc6.max", 4096 + 256),
    ],
)
def test_a_name_gives_a_space(alexnet: str, name: str, dim: int) -> None:
    space = resolve(name, alexnet)
    assert (space.name, space.dim) == (name, dim)
    assert resolve(space.id, alexnet) == space
    side = space.preprocessing.side
    assert vectors(space, np.zeros((side, side, 3), np.uint8)).shape == (1, dim)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("alexnet.conv1", "conv1 would be 193600 numbers, over 65536; add one of .mean, .max, .gem, .gram"),
        ("alexnet.conv3.gram+pool5", "conv3 would be 73920 numbers"),
        ("alexnet.fc6.mean", "fc6 is a vector, there is nothing to pool"),
        ("alexnet-448.fc6", "fc6 of 448 pixels is a map; add one of .mean, .max, .gem, .gram"),
        ("alexnet-448.conv5", "conv5 of 448 pixels is a map; add one of"),
        ("alexnet-128.fc6.max", "fc6 needs 224 pixels or more"),
        (
            "alexnet-8.fc6",
            "'8' is no way to prepare a photo; there are: a side of 16 to 2048 pixels, centre, squash, pad",
        ),
        ("alexnet-round.fc6", "'round' is no way to prepare a photo"),
        ("alexnet.fc6.median", "no such backbone and layer; did you mean alexnet.fc6?"),
        ("alexnet.fc6.l2.mean", "no such backbone and layer"),
        ("alexnet.fc6+", "no such backbone and layer"),
        ("vgg16.conv1_1.gram", None),
        ("resnet50.layer4.gram", "layer4 would be 2098176 numbers, over 65536; add one of .mean, .max, .gem"),
    ],
)
def test_a_name_that_asks_too_much(alexnet: str, name: str, message: str | None) -> None:
    if message is None:
        assert resolve(name, alexnet).dim > 0
        return
    with pytest.raises(UsageError, match=re.escape(message)) as caught:
        resolve(name, alexnet)
    assert f"extract.space = {name!r}" in str(caught.value)


def test_what_a_name_says_twice_is_one_space(alexnet: str) -> None:
    assert resolve("alexnet-flip-448.conv5.max", alexnet) == resolve("alexnet-448-flip.conv5.max", alexnet)
    assert resolve("alexnet-224-centre-single.fc6", alexnet) == resolve("alexnet.fc6", alexnet)


def test_pooling_and_norms(alexnet: str, picture: Image.Image) -> None:
    image = resize_and_crop(picture, resolve("alexnet.fc6", alexnet).preprocessing)
    maps = vectors(resolve("alexnet.conv5", alexnet), image)[0].reshape(256, 169).astype(np.float64)

    def pooled(how: str) -> np.ndarray:
        return vectors(resolve(f"alexnet.conv5.{how}", alexnet), image)[0]

    assert np.allclose(pooled("mean"), maps.mean(1), rtol=1e-4, atol=1e-5)
    assert np.allclose(pooled("max"), maps.max(1))
    assert np.allclose(pooled("gem"), (np.maximum(maps, 1e-6) ** 3).mean(1) ** (1 / 3), rtol=1e-3)
    gram = maps @ maps.T / 169
    assert np.allclose(pooled("gram"), gram[np.triu_indices(256)], rtol=1e-3, atol=1e-4)
    assert np.allclose(pooled("mean.l2"), maps.mean(1) / np.linalg.norm(maps.mean(1)), atol=1e-5)
    root = np.sqrt(maps.mean(1))
    assert np.allclose(pooled("mean.root"), root / np.linalg.norm(root), atol=1e-4)


def test_several_layers_are_side_by_side(alexnet: str, picture: Image.Image) -> None:
    image = resize_and_crop(picture, resolve("alexnet.fc6", alexnet).preprocessing)
    both = vectors(resolve("alexnet.fc7+pool5.max+fc6", alexnet), image)[0]
    alone = [vectors(resolve(f"alexnet.{layer}", alexnet), image)[0] for layer in ("fc7", "pool5.max", "fc6")]
    assert np.allclose(both, np.concatenate(alone), atol=1e-5)


def test_a_fully_connected_layer_over_a_larger_map_is_that_of_each_window(rng: np.random.Generator) -> None:
    """And so is a whole head: three layers over a map are those three over each window of it."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        head = torch.nn.Sequential(
            Dense(torch.nn.Linear(8 * 36, 32), 6), torch.nn.ReLU(), Dense(torch.nn.Linear(32, 5))
        )
    maps = torch.from_numpy(rng.standard_normal((2, 8, 13, 10), np.float32))
    with torch.inference_mode():
        outputs = head(maps)
        assert outputs.shape == (2, 5, 8, 5)
        for row in range(8):
            for column in range(5):
                window = head(maps[:, :, row : row + 6, column : column + 6])
                assert torch.allclose(outputs[:, :, row, column], window[:, :, 0, 0], atol=1e-5)


def test_a_larger_photo_is_the_most_that_each_part_says(alexnet: str, picture: Image.Image) -> None:
    """`alexnet-448.fc6.max` is the maximum of fc6 over the windows of its pool5."""
    space = resolve("alexnet-448.fc6.max", alexnet)
    image = resize_and_crop(picture, space.preprocessing)
    maps = vectors(resolve("alexnet-448.pool5.gem+fc6.max", alexnet), image)[0][256:]
    assert np.allclose(maps, vectors(space, image)[0], atol=1e-5)
    net = EmbeddingModel(space, "").eval()
    with torch.inference_mode():
        planes = net.normalise(torch.from_numpy(image[None].copy()))
        pool5 = planes
        for name in ("conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"):
            pool5 = net.net.stages[name](pool5)
        assert pool5.shape == (1, 256, 13, 13)
        fc6 = net.net.stages["fc6_linear"].linear
        windows = [fc6(pool5[:, :, i : i + 6, j : j + 6].flatten(1)).relu() for i in range(8) for j in range(8)]
    assert np.allclose(torch.stack(windows).max(0).values.numpy()[0], maps, atol=1e-4)


# -- views and shapes


def test_a_mirrored_photo_has_the_same_vector_with_flip(alexnet: str, picture: Image.Image) -> None:
    plain, flip = (resolve(f"alexnet{how}.fc6_linear", alexnet) for how in ("", "-flip"))
    image = resize_and_crop(picture, plain.preprocessing)
    mirrored = np.ascontiguousarray(image[:, ::-1])
    assert np.allclose(*vectors(flip, image, mirrored), atol=1e-4)
    one, other = vectors(plain, image, mirrored)
    assert cosine(one, other) < 0.9999
    assert np.allclose(vectors(flip, image)[0], (one + other) / 2, atol=1e-4)


def test_ten_views_are_their_mean(alexnet: str, picture: Image.Image) -> None:
    plain, ten = (resolve(f"alexnet{how}.fc6_linear", alexnet) for how in ("", "-ten"))
    whole = resize_and_crop(picture, ten.preprocessing)
    assert whole.shape == (256, 256, 3)
    places = [(0, 0), (0, 32), (32, 0), (32, 32), (16, 16)]
    crops = [np.ascontiguousarray(whole[top : top + 224, left : left + 224]) for top, left in places]
    crops += [np.ascontiguousarray(crop[:, ::-1]) for crop in crops]
    assert np.allclose(vectors(ten, whole)[0], vectors(plain, *crops).mean(0), atol=1e-4)
    two = vectors(ten, whole, whole[::-1].copy())  # one photo's views are not another's
    assert np.allclose(two[0], vectors(ten, whole)[0], atol=1e-4)


@pytest.mark.parametrize(("width", "height"), [(300, 100), (100, 300), (224, 224), (1, 900), (37, 41)])
def test_shapes(width: int, height: int, rng: np.random.Generator) -> None:
    photo = Image.fromarray(rng.integers(0, 256, (height, width, 3), np.uint8))
    how = Preprocessing(256, 224, (0.5, 0.25, 0.75), (1.0, 1.0, 1.0))
    squashed = resize_and_crop(photo, dataclasses.replace(how, shape="squash"))
    whole = np.asarray(photo.resize((256, 256), Image.Resampling.BILINEAR), np.int64)
    assert np.abs(squashed - whole[16:240, 16:240]).max() <= 2
    padded = resize_and_crop(photo, dataclasses.replace(how, shape="pad"))
    assert padded.shape == squashed.shape == (224, 224, 3)
    across, down = max(1, round(224 * width / max(width, height))), max(1, round(224 * height / max(width, height)))
    left, top = (224 - across) // 2, (224 - down) // 2
    inner = np.asarray(photo.resize((across, down), Image.Resampling.BILINEAR))
    assert np.array_equal(padded[top : top + down, left : left + across], inner)
    beside = np.ones((224, 224), bool)
    beside[top : top + down, left : left + across] = False
    assert (padded[beside] == (128, 64, 191)).all()
