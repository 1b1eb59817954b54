"""The archive of Caffe's AlexNet: what it gives, and that nothing in it is run."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from likeness.cli.app import app
from likeness.core.errors import UsageError
from likeness.models.backbones import resolve
from likeness.models.backbones.caffe import convert
from likeness.models.runtimes.torch_any import EmbeddingModel

SHAPES = {
    "conv1": (11, 11, 3, 96),
    "conv2": (5, 5, 48, 256),
    "conv3": (3, 3, 256, 384),
    "conv4": (3, 3, 192, 384),
    "conv5": (3, 3, 192, 256),
    "fc6": (9216, 4096),
    "fc7": (4096, 4096),
    "fc8": (4096, 1000),
}


@pytest.fixture(scope="module")
def layers() -> dict[str, list[np.ndarray]]:
    """As the archive has them: convolutions (h, w, in, out), fully connected layers (in, out)."""
    rng = np.random.default_rng(20260102)
    arrays = {}
    for name, shape in SHAPES.items():
        spread = np.sqrt(2 / np.prod(shape[:-1]))
        weights = rng.standard_normal(shape, np.float32) * np.float32(spread)
        arrays[name] = [weights, rng.standard_normal(shape[-1], np.float32)]
    return arrays


def run(layers: dict[str, list[np.ndarray]], image: np.ndarray) -> np.ndarray:
    """AlexNet with maps whose channels come last, as the archive's own code runs it: (227, 227, 3) BGR to (4096,)."""

    def convolve(x: torch.Tensor, name: str, stride: int = 1, padding: int = 0, groups: int = 1) -> torch.Tensor:
        weights, biases = (torch.from_numpy(values) for values in layers[name])
        maps = F.conv2d(x.permute(2, 0, 1)[None], weights.permute(3, 2, 0, 1), biases, stride, padding, 1, groups)
        return maps[0].permute(1, 2, 0).relu()

    def pool(x: torch.Tensor) -> torch.Tensor:
        return F.max_pool2d(x.permute(2, 0, 1), 3, 2).permute(1, 2, 0)

    def norm(x: torch.Tensor) -> torch.Tensor:
        return F.local_response_norm(x.permute(2, 0, 1)[None], 5, 1e-4, 0.75, 1.0)[0].permute(1, 2, 0)

    x = pool(norm(convolve(torch.from_numpy(image), "conv1", 4)))
    x = pool(norm(convolve(x, "conv2", 1, 2, 2)))
    x = convolve(convolve(x, "conv3", 1, 1), "conv4", 1, 1, 2)
    x = pool(convolve(x, "conv5", 1, 1, 2))
    assert x.shape == (6, 6, 256)
    vector: np.ndarray = np.maximum(x.reshape(1, -1).numpy() @ layers["fc6"][0] + layers["fc6"][1], 0)[0]
    return vector


@pytest.fixture(scope="module")
def archive(layers: dict[str, list[np.ndarray]], tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("caffe") / "bvlc_alexnet.npy"
    np.save(path, layers, allow_pickle=True)  # type: ignore[arg-type]
    return path


def test_the_archives_network(layers: dict[str, list[np.ndarray]], archive: Path, rng: np.random.Generator) -> None:
    app(["weights", "import", str(archive)], standalone_mode=False)
    file = archive.with_suffix(".safetensors")
    space = resolve("alexnet_caffe.fc6", str(file))
    image = rng.integers(0, 256, (227, 227, 3), np.uint8)
    with torch.inference_mode():
        vector = EmbeddingModel(space, "").eval()(torch.from_numpy(image[None])).numpy()[0]
    how = space.preprocessing
    expected = run(layers, ((image - np.array(how.mean))[:, :, ::-1]).astype(np.float32).copy())
    assert np.allclose(vector, expected, rtol=1e-3, atol=1e-3 * np.abs(expected).max())
    file.unlink()


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def pickled(value: Any, path: Path) -> None:
    np.save(path, np.array(value, object), allow_pickle=True)


def test_nothing_in_it_is_run(tmp_path: Path) -> None:
    path = tmp_path / "bad.npy"
    pickled({"conv1": [Trap(tmp_path / "sprung"), 1]}, path)
    with pytest.raises(UsageError, match=r"it names (posix|os)\.mkdir, which no array needs"):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "sprung").exists()
    assert not (tmp_path / "out.safetensors").exists()


def cut(archive: Path, path: Path) -> None:
    path.write_bytes(archive.read_bytes()[:100_000])


WRONG: dict[str, Callable[[Path, Path], object]] = {
    "plain numbers": lambda archive, path: np.save(path, np.zeros(3)),
    "a list": lambda archive, path: pickled([1, 2], path),
    "other layers": lambda archive, path: pickled({"conv1": [np.zeros((1, 1, 1, 1)), np.zeros(1)]}, path),
    "a layer without biases": lambda archive, path: pickled({"conv1": [np.zeros((1, 1, 1, 1))]}, path),
    "text": lambda archive, path: path.write_text("no archive"),
    "empty": lambda archive, path: path.write_bytes(b""),
    "cut": cut,
    "a folder": lambda archive, path: path.mkdir(),
    "nothing": lambda archive, path: None,
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_no_archive(kind: str, archive: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    WRONG[kind](archive, path)
    with pytest.raises(UsageError, match=r"x\.npy is no archive of Caffe's AlexNet .*; name bvlc_alexnet\.npy"):
        convert(path, tmp_path / "out.safetensors")
    assert not (tmp_path / "out.safetensors").exists()


def test_a_file_that_cannot_be_written(archive: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"--to .*; name a file that can be written"):
        convert(archive, tmp_path / "nowhere" / "out.safetensors")
