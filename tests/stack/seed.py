"""A program that makes a root with many vectors: seeded noise, for a load that takes its time."""

import sys

import numpy as np
from tests.runs import seed_features

from likeness.core.settings import load_settings

VECTORS, DIM = 6_000, 4096


def vectors() -> np.ndarray:
    """Float32 (VECTORS, DIM)."""
    return np.random.default_rng(20260102).standard_normal((VECTORS, DIM), np.float32)


if __name__ == "__main__":
    seed_features(load_settings(None, {"root": sys.argv[1]}), vectors())
