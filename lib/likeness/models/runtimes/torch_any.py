"""torch: float32 on the CPU as the reference, float16 and channels_last on CUDA, bfloat16 where told.   [torch]"""

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
from likeness.models.backbones.network import Network, Planes
from likeness.models.runtimes import Otherwise, Pictures
from likeness.models.runtimes.torch_decoding import DeviceDecoder


class Normalised(torch.nn.Module):
    """A backbone with its normalisation inside: uint8 (n, h, w, 3) to float32 (n, dim)."""

    def __init__(self, space: Space, cache: str) -> None:
        super().__init__()
        how = self.how = space.preprocessing
        self.net = Network(space.spec, space.parts, space.weights_file(cache))
        self.planes = Planes(how)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises, then runs the network."""
        planes = self.planes(images)
        if self.how.views == "single":
            vectors: torch.Tensor = self.net(planes)
            return vectors
        views = [planes, planes.flip(3)] if self.how.views == "flip" else _ten(planes, self.how)
        each = self.net(torch.cat(views))
        mean: torch.Tensor = each.view(len(views), -1, each.shape[1]).mean(0)
        return mean


def _ten(planes: torch.Tensor, how: Preprocessing) -> list[torch.Tensor]:
    """The middle and the corners of (n, 3, resize, resize), and their mirror images."""
    far, middle = how.resize - how.crop, round((how.resize - how.crop) / 2)
    places = ((middle, middle), (0, 0), (0, far), (far, 0), (far, far))
    crops = [planes[:, :, top : top + how.crop, left : left + how.crop] for top, left in places]
    return [*crops, *(crop.flip(3) for crop in crops)]


class TorchRuntime:
    """The network run by torch, on a device such as `cuda:1`; by default on the first GPU, or the CPU.

    On CUDA each thread that calls has a stream of its own, so that the photos of one pass are copied while another
    is computed.
    """

    def __init__(self, space: Space, cache: str, threads: int, device: str = "", precision: str = "auto") -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch {torch.__version__} {self.device}"
        if self.device == "cpu":
            torch.set_num_threads(threads)
        cuda = self._pinned = self.device.startswith("cuda")
        self._half = _half(precision, cuda)
        self._most = sys.maxsize
        self.at_once = 2 if cuda else 1
        self._net = Normalised(space, cache).eval().to(self.device).to(memory_format=torch.channels_last)
        self._streams = _Streams(self.device) if cuda else None

    @property
    def busy_s(self) -> float:
        """Seconds in which the GPU was at work; 0 on the CPU."""
        return self._streams.busy.seconds if self._streams else 0.0

    def decoder(self, limits: Limits, otherwise: Otherwise) -> Pictures:
        """Decodes photos on this runtime's device."""
        decode = DeviceDecoder(self._net.how, limits, self.device, otherwise)

        def decoded(photos: Sequence[bytes]) -> tuple[torch.Tensor, dict[int, BadImage]]:
            with self._turn():
                return decode(photos)

        return decoded

    def __call__(self, images: "np.ndarray | torch.Tensor") -> np.ndarray:
        """uint8 (n, side, side, 3) RGB to float32 (n, dim), as many at once as the memory holds."""
        parts, start = [], 0
        while start < len(images):
            part = images[start : start + self._most]
            try:
                parts.append(self._vectors(part))
            except torch.OutOfMemoryError as error:
                if len(part) == 1:
                    raise ServiceError(f"{self.name}: no memory for one photo: {error}") from None
                self._most = len(part) // 2
                torch.cuda.empty_cache()
                continue
            start += len(part)
        return np.concatenate(parts)

    def _turn(self) -> AbstractContextManager[None]:
        """Within, this thread works in a stream of its own."""
        return self._streams.turn() if self._streams else nullcontext()

    def _vectors(self, images: "np.ndarray | torch.Tensor") -> np.ndarray:
        with self._turn():
            return self._passed(images)

    def _passed(self, images: "np.ndarray | torch.Tensor") -> np.ndarray:
        if isinstance(images, torch.Tensor):
            batch = images
        else:
            batch = torch.from_numpy(np.ascontiguousarray(images))
            if self._pinned:  # else the copy would wait for the one before
                batch = batch.pin_memory()
        batch = batch.to(self.device, non_blocking=True)
        found = self._run(batch, self._half)
        if self._half and not torch.isfinite(found).all():  # beyond the 65,504 of float16
            found = self._run(batch, None)
        vectors: np.ndarray = found.cpu().numpy()
        return vectors

    def _run(self, batch: torch.Tensor, half: torch.dtype | None) -> torch.Tensor:
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, dtype=half or torch.bfloat16, enabled=half is not None):
            vectors: torch.Tensor = self._net(batch)
            return vectors.float()


def _half(precision: str, cuda: bool) -> torch.dtype | None:
    """What is computed in, where that is not float32."""
    if precision == "auto":
        return torch.float16 if cuda else None
    return torch.bfloat16 if precision == "bfloat16" else None


@dataclass
class Busy:
    """How long somebody was at work: spans of seconds, told in the order of their ends, in; what they cover out."""

    seconds: float = 0.0
    _until: float = 0.0

    def count(self, begin: float, end: float) -> None:
        """Adds a span; what one before it covers does not count twice."""
        self.seconds += max(0.0, end - max(begin, self._until))
        self._until = max(self._until, end)


class _Streams:
    """A CUDA stream for each thread, and the seconds in which any of them was at work."""

    def __init__(self, device: str) -> None:
        self._device, self._mine, self._guard = device, threading.local(), threading.Lock()
        self._start = torch.cuda.Event(enable_timing=True)  # type: ignore[no-untyped-call]
        with torch.cuda.device(device):
            self._start.record()
            torch.cuda.synchronize()  # the weights are there before any other stream reads them
        self.busy = Busy()

    @contextmanager
    def turn(self) -> Iterator[None]:
        """What is begun within is of the thread's own stream, and is over at its end."""
        if not hasattr(self._mine, "stream"):
            self._mine.stream = torch.cuda.Stream(self._device)  # type: ignore[no-untyped-call]
        stream = self._mine.stream
        begun, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))  # type: ignore[no-untyped-call]
        with torch.cuda.stream(stream):
            begun.record(stream)
            try:
                yield
            finally:
                ended.record(stream)
                ended.synchronize()
        with self._guard:
            self.busy.count(self._start.elapsed_time(begun) / 1000, self._start.elapsed_time(ended) / 1000)
