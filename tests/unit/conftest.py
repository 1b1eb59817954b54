"""Networks for tests: every backbone with weights that can be had here, and one cache of converted networks."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from likeness.core.settings import Limits
from likeness.images.image import decode, resize_and_crop
from likeness.models.backbones import Space, resolve
from likeness.models.runtimes.torch_any import TorchRuntime

SPACES = ("alexnet.fc6_linear", "alexnet.fc6", "efficientnet_lite0.pool")
"""Spaces of which everything is tested; `test_registry.py` walks all the others."""


@pytest.fixture(scope="session")
def scratch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for what is too large to be kept for three sessions, as pytest does."""
    folder = tmp_path_factory.mktemp("networks")
    yield folder
    shutil.rmtree(folder)


@pytest.fixture(scope="session")
def weights(scratch: Path) -> dict[str, str]:
    """Backbone to weights file; empty for the ones that come as a package. The others are seeded noise."""
    import torch
    import torchvision

    with torch.random.fork_rng():
        torch.manual_seed(20260102)
        torch.save(torchvision.models.alexnet(weights=None).state_dict(), scratch / "alexnet.pth")
    return {"alexnet": str(scratch / "alexnet.pth"), "efficientnet_lite0": ""}


@pytest.fixture(scope="session", params=SPACES)
def space(request: pytest.FixtureRequest, weights: dict[str, str]) -> Space:
    """Each space in turn."""
    return resolve(request.param, weights[request.param.partition(".")[0]])


@pytest.fixture(scope="session")
def cache(scratch: Path) -> str:
    """Where converted networks are kept."""
    return str(scratch / "cache")


@pytest.fixture(scope="session")
def pictures(sample: Path) -> list[Image.Image]:
    """Six photos of the sample, decoded."""
    return [decode(path.read_bytes(), Limits()) for path in sorted(sample.glob("*/*.jpg"))[::27]]


@pytest.fixture(scope="session")
def reference(space: Space, pictures: list[Image.Image]) -> tuple[np.ndarray, np.ndarray]:
    """The pictures as each space's network takes them, and what torch in float32 gives."""
    inputs = np.stack([resize_and_crop(picture, space.preprocessing) for picture in pictures])
    return inputs, TorchRuntime(space, "~/.cache/likeness", 1, "cpu")(inputs)
