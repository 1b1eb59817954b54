"""Runtimes: OpenVINO against torch in float32, and the cache of converted networks."""

import hashlib
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from likeness.core.errors import ServiceError
from likeness.images.image import Preprocessing, resize_and_crop
from likeness.models import runtimes
from likeness.models.backbones import Backbone, Layer, Space, alexnet, registry, resolve
from likeness.models.runtimes import Machine, choose_runtime, open_runtime, openvino_cpu, prepare_runtime
from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime, convert
from likeness.models.runtimes.torch_any import BusyTime, TorchRuntime

DEFAULT = "efficientnet_lite0.pool"


@pytest.fixture
def inputs(pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([resize_and_crop(picture, registry()["efficientnet_lite0"].preprocessing) for picture in pictures])


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


def test_openvino_is_torch(space: Space, cache: str, reference: tuple[np.ndarray, np.ndarray]) -> None:
    inputs, expected = reference
    runtime = OpenVinoRuntime(space, cache, 1)
    vectors = runtime(inputs)
    assert (vectors.shape, vectors.dtype) == (expected.shape, np.float32)
    assert cosines(vectors, expected).min() >= 0.9999
    assert np.abs(vectors - expected).max() <= 1e-3 * np.abs(expected).max()
    # a photo's vector does not depend on the photos beside it, and any number may come at once
    for count in (1, 2, 5):
        assert cosines(runtime(inputs[:count]), vectors[:count]).min() >= 0.999999
    assert cosines(runtime(inputs[::-1])[::-1], vectors).min() >= 0.999999  # not contiguous


def test_an_answer_is_not_overwritten_by_the_next(cache: str, inputs: np.ndarray) -> None:
    runtime = OpenVinoRuntime(resolve(DEFAULT), cache, 1)
    first = runtime(inputs[:1])
    kept = first.copy()
    runtime(inputs[1:2])
    assert np.array_equal(first, kept)


@pytest.mark.parametrize("way", ["stage5.gram", "stage5.mean.l2+pool.l2", "stage5.gem.root", "stage5.max"])
def test_openvino_pools_as_torch_does(cache: str, inputs: np.ndarray, way: str) -> None:
    space = resolve(f"efficientnet_lite0.{way}")
    vectors, expected = OpenVinoRuntime(space, cache, 1)(inputs[:3]), TorchRuntime(space, cache, 1, "cpu")(inputs[:3])
    assert vectors.shape == expected.shape == (3, space.dim)
    assert cosines(vectors, expected).min() >= 0.9999


def test_few_photos_at_once_where_maps_outweigh_weights(cache: str, tiny: Space, tmp_path: Path) -> None:
    assert OpenVinoRuntime(resolve(DEFAULT), cache, 1).batch_size == 2
    assert OpenVinoRuntime(resolve(DEFAULT), cache, 3).batch_size == 6
    assert OpenVinoRuntime(tiny, str(tmp_path / "cache"), 1).batch_size > 100


def test_callers_at_once_get_their_own_answers(cache: str, inputs: np.ndarray) -> None:
    runtime = OpenVinoRuntime(resolve(DEFAULT), cache, 1)
    truth = [runtime(image[None]) for image in inputs]
    with ThreadPoolExecutor(6) as pool:
        answers = list(pool.map(runtime, [image[None] for image in inputs] * 5))
    for number, vectors in enumerate(answers):
        assert np.abs(vectors - truth[number % len(inputs)]).max() < 1e-3


def test_every_kind_opens_by_name(cache: str, inputs: np.ndarray) -> None:
    space = resolve(DEFAULT)
    for kind, name in (("openvino", "openvino"), ("torch", "torch"), ("auto", choose_runtime("auto"))):
        runtime = open_runtime(space, kind, Machine(cache, 1))
        assert runtime.name.startswith(name)
        assert runtime(inputs[:1]).shape == (1, space.dim)


def test_choosing(monkeypatch: pytest.MonkeyPatch) -> None:
    installed = {"openvino", "torch"}
    monkeypatch.setattr(runtimes.importlib.util, "find_spec", lambda name: name in installed or None)
    monkeypatch.setattr(runtimes, "Path", lambda device: Path("/nowhere"))
    assert choose_runtime("auto") == "openvino"
    monkeypatch.setattr(runtimes, "Path", lambda device: Path("/"))  # a GPU's driver
    assert choose_runtime("auto") == "torch"
    installed.remove("torch")
    assert choose_runtime("auto") == "openvino"
    with pytest.raises(ServiceError, match=r"extract\.runtime = 'torch'.*not installed"):
        choose_runtime("torch")
    installed.clear()
    for kind in ("auto", "openvino"):
        with pytest.raises(ServiceError, match=r"install likeness\[extract\]"):
            choose_runtime(kind)


# -- the cache


@pytest.fixture
def own_cache(cache: str, tmp_path: Path) -> Path:
    """A cache of the test's own, with the default network in it."""
    path = convert(resolve(DEFAULT), cache)
    for each in (path, path.with_suffix(".bin")):
        (tmp_path / "cache").mkdir(exist_ok=True)
        shutil.copy(each, tmp_path / "cache")
    return tmp_path / "cache"


def test_the_cache_is_named_by_space_and_version(own_cache: Path) -> None:
    import openvino

    space = resolve(DEFAULT)
    path = convert(space, str(own_cache))
    assert path.name.startswith(f"{space.id}-openvino{openvino.__version__.split('-')[0]}")
    assert {each.suffix for each in own_cache.iterdir()} == {".xml", ".bin"}


WITHOUT_TORCH = """
import sys
sys.modules["torch"] = sys.modules["efficientnet_lite_pytorch"] = None
import numpy as np
from likeness.models.backbones import resolve
from likeness.models.runtimes import Machine, open_runtime, prepare_runtime
space = resolve("efficientnet_lite0.pool")
prepare_runtime(space, "openvino", Machine(sys.argv[1], 1))
runtime = open_runtime(space, "openvino", Machine(sys.argv[1], 1))
print(runtime(np.zeros((1, 224, 224, 3), np.uint8)).shape)
"""


def test_a_converted_network_needs_no_torch(own_cache: Path) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WITHOUT_TORCH, own_cache], capture_output=True, text=True, check=True
    )
    assert process.stdout == "(1, 1280)\n"


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Space:
    """A network of one layer, for what does not depend on the network."""
    import torch

    def network() -> tuple[torch.nn.Module, list[tuple[str, torch.nn.Module]]]:
        linear = torch.nn.Linear(8 * 8 * 3, 4)
        return linear, [("out", torch.nn.Sequential(torch.nn.Flatten(), linear))]

    path = tmp_path / "tiny.pth"
    with torch.random.fork_rng():
        torch.manual_seed(0)
        torch.save(network()[0].state_dict(), path)
    how = Preprocessing(8, 8, (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    layers = {"out": Layer((4,), "out")}
    spec = Backbone("tiny", "tiny", "none", "a file", how, layers, lambda: tmp_path, network)
    monkeypatch.setattr(alexnet, "BACKBONES", (spec,))
    return Space("tiny", "out", 4, hashlib.sha256(path.read_bytes()).hexdigest(), str(path))


def test_workers_that_begin_at_once_convert_once(tmp_path: Path, tiny: Space, monkeypatch: pytest.MonkeyPatch) -> None:
    converted, real = [], openvino_cpu._convert

    def slowly(space: Space, path: Path, cache: str) -> None:
        converted.append(path)
        time.sleep(0.2)
        real(space, path, cache)

    monkeypatch.setattr(openvino_cpu, "_convert", slowly)
    with ThreadPoolExecutor(3) as pool:  # a lock of a file holds between threads as between processes
        paths = set(pool.map(convert, [tiny] * 3, [str(tmp_path / "cache")] * 3))
    assert converted == list(paths)
    assert sorted(path.suffix for path in (tmp_path / "cache").iterdir()) == [".bin", ".lock", ".xml"]
    image = np.arange(192, dtype=np.uint8).reshape(1, 8, 8, 3)
    assert np.allclose(
        OpenVinoRuntime(tiny, str(tmp_path / "cache"), 1)(image),
        TorchRuntime(tiny, str(tmp_path), 1, "cpu")(image),
        atol=1e-5,
    )


def test_half_a_network_is_made_anew(tmp_path: Path, tiny: Space) -> None:
    path = convert(tiny, str(tmp_path))
    path.with_suffix(".bin").unlink()
    OpenVinoRuntime(tiny, str(tmp_path), 1)
    assert path.with_suffix(".bin").exists()


@pytest.mark.parametrize("content", [b"", b"<net/>", b"no network"])
def test_a_damaged_network_is_a_named_error(own_cache: Path, content: bytes) -> None:
    path = convert(resolve(DEFAULT), str(own_cache))
    path.write_bytes(content)
    with pytest.raises(ServiceError, match="delete it") as caught:
        OpenVinoRuntime(resolve(DEFAULT), str(own_cache), 1)
    assert str(path) in str(caught.value)


def test_a_cache_that_cannot_be_written_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(ServiceError, match=r"extract\.cache = .*file/cache"):
        prepare_runtime(resolve(DEFAULT), "openvino", Machine(str(tmp_path / "file" / "cache"), 1))


def test_preparing_for_torch_converts_nothing(tmp_path: Path) -> None:
    prepare_runtime(resolve(DEFAULT), "torch", Machine(str(tmp_path / "cache"), 1))
    assert not (tmp_path / "cache").exists()


def test_the_number_of_threads_is_the_callers(cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import openvino as ov

    compiled: list[dict[str, Any]] = []
    real = ov.Core.compile_model

    def spying(self: Any, model: Any, device: str, options: dict[str, Any]) -> Any:
        compiled.append(options)
        return real(self, model, device, options)

    monkeypatch.setattr(ov.Core, "compile_model", spying)
    runtime = OpenVinoRuntime(resolve(DEFAULT), cache, 2)
    assert runtime._model.get_property("INFERENCE_NUM_THREADS") == 2
    assert runtime._model.get_property("ENABLE_CPU_PINNING") is False  # two workers that pin would share one core
    assert compiled[0]["NUM_STREAMS"] == 1


# -- what a GPU needs, on the CPU


@pytest.mark.parametrize("kind", ["openvino", "torch"])
def test_bfloat16_is_near_and_is_not_float32(tiny: Space, tmp_path: Path, kind: str) -> None:
    images = np.random.default_rng(1).integers(0, 256, (4, 8, 8, 3), np.uint8)
    plain, half = (open_runtime(tiny, kind, Machine(str(tmp_path), 1, precision=one)) for one in ("auto", "bfloat16"))
    one, other = plain(images), half(images)
    assert np.allclose(one, other, rtol=0.05, atol=0.05 * np.abs(one).max())
    if "bf16" in Path("/proc/cpuinfo").read_text() or kind == "torch":
        assert not np.array_equal(one, other)


@pytest.mark.parametrize("fits", [1, 3, 4, 100])
def test_photos_that_the_memory_does_not_hold_at_once_come_in_parts(tiny: Space, fits: int) -> None:
    import torch

    runtime = TorchRuntime(tiny, "", 1)
    images = np.random.default_rng(0).integers(0, 256, (10, 8, 8, 3), np.uint8)
    expected, tried, real = runtime(images), list[int](), runtime._net

    class Small(torch.nn.Module):
        def forward(self, batch: torch.Tensor) -> torch.Tensor:
            tried.append(len(batch))
            if len(batch) > fits:
                raise torch.OutOfMemoryError("CUDA out of memory")
            vectors: torch.Tensor = real(batch)
            return vectors

    runtime._net = Small()  # type: ignore[assignment]
    assert np.allclose(runtime(images), expected, atol=1e-6)
    tried.clear()
    runtime(images)
    assert max(tried) <= fits, "what did not fit once is not tried again"
    fits = 0
    with pytest.raises(ServiceError, match="no memory for one photo"):
        runtime(images)


@pytest.mark.parametrize(
    ("spans", "covered"),
    [
        ([], 0),
        ([(0, 2)], 2),
        ([(0, 2), (1, 3)], 3),
        ([(0, 2), (4, 5)], 3),
        ([(1, 3), (1, 3)], 2),
        ([(0, 4), (1, 4)], 4),
    ],
)
def test_a_gpu_is_busy_once_however_many_streams_work(spans: list[tuple[float, float]], covered: float) -> None:
    busy = BusyTime()
    for begin, end in spans:
        busy.add(begin, end)
    assert busy.seconds == covered


def test_a_vector_beyond_half_precision_is_made_in_full(tiny: Space) -> None:
    import torch

    runtime = TorchRuntime(tiny, "", 1)
    images = np.random.default_rng(0).integers(0, 256, (3, 8, 8, 3), np.uint8)
    with torch.no_grad():
        for parameter in runtime._net.parameters():
            parameter *= 1e6
    expected = runtime(images)
    runs = list[torch.dtype | None]()
    real = runtime._run

    def run(batch: torch.Tensor, half: torch.dtype | None) -> torch.Tensor:
        runs.append(half)
        return real(batch, half)

    runtime._run, runtime._half = run, torch.float16  # type: ignore[method-assign]
    assert np.allclose(runtime(images), expected)
    assert runs == [torch.float16, None]


FORKS = """
import os, sys, time
forks = []
os.register_at_fork(before=lambda: forks.append(1))
from likeness.models.backbones import resolve
from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime
OpenVinoRuntime(resolve("efficientnet_lite0.pool"), sys.argv[1], 1)
time.sleep(2)
sys.exit(len(forks))
"""


def test_openvino_forks_no_process_to_say_that_it_is_used(tmp_path: Path) -> None:
    """A fork closes the sockets to Spark's JVM, and a catalogue is nobody else's business."""
    assert subprocess.run([sys.executable, "-c", FORKS, str(tmp_path)], timeout=120).returncode == 0
