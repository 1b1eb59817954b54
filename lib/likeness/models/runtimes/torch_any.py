"""The torch runtime: float32 on the CPU as the reference, float16 on CUDA, bfloat16 on request.   [torch]"""

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass

import numpy as np
import torch

from likeness.core.errors import ServiceError
from likeness.core.settings import Limits
from likeness.images.image import BadImage, Preprocessing
from likeness.models.backbones import Space
from likeness.models.backbones.network import FeatureNetwork, NormalisePixels, load_stages
from likeness.models.runtimes import BatchDecoder, FallbackDecoder
from likeness.models.runtimes.torch_decoding import DeviceDecoder


class EmbeddingModel(torch.nn.Module):
    """A backbone with the normalisation of pixels: uint8 (n, h, w, 3) to float32 (n, dim)."""

    def __init__(self, space: Space, cache: str) -> None:
        super().__init__()
        self.preprocessing = space.preprocessing
        self.net = FeatureNetwork(load_stages(space.spec, space.weights_file(cache)), space.parts)
        self.normalise = NormalisePixels(self.preprocessing)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises pixels and runs the network; averages over the preprocessing's views."""
        planes = self.normalise(images)
        if self.preprocessing.views == "single":
            vectors: torch.Tensor = self.net(planes)
            return vectors
        flip = self.preprocessing.views == "flip"
        views = [planes, planes.flip(3)] if flip else _ten_crops(planes, self.preprocessing)
        vectors_by_view = self.net(torch.cat(views))
        mean: torch.Tensor = vectors_by_view.view(len(views), -1, vectors_by_view.shape[1]).mean(0)
        return mean


def _ten_crops(planes: torch.Tensor, preprocessing: Preprocessing) -> list[torch.Tensor]:
    """The centre and corner crops of (n, 3, resize, resize), and their mirror images."""
    side = preprocessing.crop
    far, centre = preprocessing.resize - side, round((preprocessing.resize - side) / 2)
    corners = ((centre, centre), (0, 0), (0, far), (far, 0), (far, far))
    crops = [planes[:, :, top : top + side, left : left + side] for top, left in corners]
    return [*crops, *(crop.flip(3) for crop in crops)]


class TorchRuntime:
    """A network run by torch, on a device such as `cuda:1`; by default on the first GPU, or the CPU.

    On CUDA two batches at once run on streams of their own, so that one is copied while another is computed.
    """

    def __init__(self, space: Space, cache: str, threads: int, device: str = "", precision: str = "auto") -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch {torch.__version__} {self.device}"
        if self.device == "cpu":
            torch.set_num_threads(threads)
        cuda = self._pinned = self.device.startswith("cuda")
        self._half = _half(precision, cuda)
        self._max_batch = sys.maxsize
        self.max_passes = 2 if cuda else 1
        self._net = EmbeddingModel(space, cache).eval().to(self.device).to(memory_format=torch.channels_last)
        self._streams = _Streams(self.device) if cuda else None

    @property
    def busy_s(self) -> float:
        """Seconds that the GPU has been busy so far; 0 on the CPU."""
        return self._streams.busy.seconds if self._streams else 0.0

    def decoder(self, limits: Limits, fallback: FallbackDecoder) -> BatchDecoder:
        """Returns a decoder on this runtime's device."""
        decode = DeviceDecoder(self._net.preprocessing, limits, self.device, fallback)

        def decoded(photos: Sequence[bytes]) -> tuple[torch.Tensor, dict[int, BadImage]]:
            with self._stream():
                return decode(photos)

        return decoded

    def __call__(self, images: "np.ndarray | torch.Tensor") -> np.ndarray:
        """Runs the network on uint8 (n, side, side, 3) RGB, in batches that fit in memory; returns float32 (n, dim)."""
        parts, start = [], 0
        while start < len(images):
            part = images[start : start + self._max_batch]
            try:
                with self._stream():
                    parts.append(self._forward(part))
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise ServiceError(f"{self.name}: no memory for one photo: {error}") from None
                self._max_batch = len(part) // 2
                torch.cuda.empty_cache()
                continue
            start += len(part)
        return np.concatenate(parts)

    def _stream(self) -> AbstractContextManager[None]:
        """A context in which this thread uses a CUDA stream of its own."""
        return self._streams.use() if self._streams else nullcontext()

    def _forward(self, images: "np.ndarray | torch.Tensor") -> np.ndarray:
        if isinstance(images, torch.Tensor):
            batch = images
        else:
            batch = torch.from_numpy(np.ascontiguousarray(images))
            if self._pinned:  # a copy from pageable memory would wait for the batch before
                batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        vectors = self._run(batch, self._half)
        if self._half and not torch.isfinite(vectors).all():  # values above 65,504 overflow in float16
            vectors = self._run(batch, None)
        array: np.ndarray = vectors.cpu().numpy()
        return array

    def _run(self, batch: torch.Tensor, half: torch.dtype | None) -> torch.Tensor:
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, dtype=half or torch.bfloat16, enabled=half is not None):
            vectors: torch.Tensor = self._net(batch)
            return vectors.float()


def _half(precision: str, cuda: bool) -> torch.dtype | None:
    """The reduced precision to compute in; None for float32."""
    if precision == "auto":
        return torch.float16 if cuda else None
    return torch.bfloat16 if precision == "bfloat16" else None


@dataclass
class BusyTime:
    """Total time covered by spans, which may overlap and are added in the order of their ends."""

    seconds: float = 0.0
    _until: float = 0.0

    def add(self, start: float, end: float) -> None:
        """Adds a span in seconds; time that earlier spans cover is not counted again."""
        self.seconds += max(0.0, end - max(start, self._until))
        self._until = max(self._until, end)


class _Streams:
    """As few CUDA streams as there are batches at once, and the time in which any of them was busy.

    torch keeps freed memory for the stream that used it: a new stream for each thread would fill the GPU.
    """

    def __init__(self, device: str) -> None:
        self._device, self._idle, self._lock = device, list[torch.cuda.Stream](), threading.Lock()
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            self._start.record()
            torch.cuda.synchronize()  # the weights are there before any other stream reads them
        self.busy = BusyTime()

    @contextmanager
    def use(self) -> Iterator[None]:
        """Runs the body's kernels in a stream that nobody else uses meanwhile, and waits for them at its end."""
        with self._lock:
            stream = self._idle.pop() if self._idle else torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        started, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            started.record(stream)
            try:
                yield
            finally:
                ended.record(stream)
                ended.synchronize()
                with self._lock:
                    self._idle.append(stream)
        with self._lock:
            self.busy.add(self._start.elapsed_time(started) / 1000, self._start.elapsed_time(ended) / 1000)
