"""torch: float32 on the CPU as the reference, bfloat16 and channels_last on CUDA.   [torch]"""

import numpy as np
import torch

from likeness.backbones import Space, registry


class Normalised(torch.nn.Module):
    """A backbone with its normalisation inside: uint8 (n, h, w, 3) to float32 (n, dim)."""

    def __init__(self, space: Space, cache: str) -> None:
        super().__init__()
        spec = registry()[space.backbone]
        how = spec.preprocessing
        self.net = spec.build(space.weights_file(cache), space.layer)
        mean, std = torch.tensor(how.mean), torch.tensor(how.std)
        self.gain = torch.nn.Buffer(1 / (how.scale * std))
        self.offset = torch.nn.Buffer(-mean / std)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Normalises, then runs the network."""
        planes = (images.float() * self.gain + self.offset).permute(0, 3, 1, 2)
        vectors: torch.Tensor = self.net(planes)
        return vectors


class TorchRuntime:
    """The network run by torch, on a device such as `cuda:1`; by default on the first GPU, or the CPU."""

    def __init__(self, space: Space, cache: str, threads: int, device: str = "") -> None:
        self.device = device or ("cuda" if torch.cuda.is_available() else "cpu")
        self.name = f"torch {torch.__version__} {self.device}"
        if self.device == "cpu":
            torch.set_num_threads(threads)
        self._net = Normalised(space, cache).eval().to(self.device).to(memory_format=torch.channels_last)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """uint8 (n, crop, crop, 3) RGB to float32 (n, dim)."""
        batch = torch.from_numpy(np.ascontiguousarray(images)).to(self.device, non_blocking=True)
        kind = self.device.partition(":")[0]
        with torch.inference_mode(), torch.autocast(kind, dtype=torch.bfloat16, enabled=kind == "cuda"):
            vectors: np.ndarray = self._net(batch).float().cpu().numpy()
        return vectors
