"""Hardware profiles: the rates fit together, and follow the stage that is slowed down."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness.cli.app import app
from likeness.core.errors import UsageError
from likeness.core.settings import Limits, Settings, load_settings
from likeness.images.image import BadImage
from likeness.models.runtimes import BatchDecoder, FallbackDecoder
from likeness.ops import hardware_profile


class Clock:
    """Goes on by itself, and at once by what the networks here say they take: on a busy machine they take no more."""

    skipped = 0.0

    def perf_counter(self) -> float:
        return time.perf_counter() + self.skipped

    def sleep(self, seconds: float) -> None:
        self.skipped += seconds


clock = Clock()


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_profile, "_SECONDS", 0.2)
    monkeypatch.setattr(hardware_profile, "_PHOTOS", 12)
    monkeypatch.setattr(hardware_profile, "time", clock)


def settings_of(source: Path, cache: str, *more: str) -> Settings:
    return load_settings(None, {"source.uri": str(source)}, (f"extract.cache={cache}", *more))


class Network:
    """Takes a millisecond, and another for each photo."""

    name = "a network"
    max_passes, busy_s = 1, 0.0

    def __call__(self, images: np.ndarray) -> np.ndarray:
        clock.sleep(0.001 * (1 + len(images)))
        return np.zeros((len(images), 4), np.float32)


class Gpu(Network):
    """Takes next to nothing, on a device of its own."""

    name = "torch 2 cuda:0"

    def __call__(self, images: np.ndarray) -> np.ndarray:
        clock.sleep(1e-5 * len(images))
        return np.zeros((len(images), 4), np.float32)


def test_a_cpu_shares_its_cores(sample: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_profile, "open_runtime", lambda *_: Network())
    result = hardware_profile.profile(settings_of(sample, cache))
    assert result.photos == 12
    assert result.model == max(result.batches.values())
    assert result.batches[1] < result.batches[8] < 1000
    assert result.ceiling < min(result.decode, result.model)
    assert 1 / result.ceiling == pytest.approx(1 / result.decode + 1 / result.model + 1 / (result.read * result.cores))
    assert result.settings["extract.decode_threads"] == 1
    assert result.batches[result.settings["extract.batch_size"]] >= 0.97 * result.model


@pytest.mark.parametrize(
    ("noise", "faster", "chosen"), [(0.001, True, True), (0.2, True, False), (0.001, False, False)]
)
def test_bfloat16_is_chosen_where_it_is_as_good_and_faster(
    sample: Path, cache: str, monkeypatch: pytest.MonkeyPatch, noise: float, faster: bool, chosen: bool
) -> None:
    class Vectors(Network):
        def __init__(self, half: bool) -> None:
            self.half = half

        def __call__(self, images: np.ndarray) -> np.ndarray:
            clock.sleep(0.05 * len(images) * (0.5 if faster and self.half else 1))
            rows = images.reshape(len(images), -1)[:, :4].astype(np.float32) + 1
            return rows + self.half * noise * np.array([1, -1, 1, -1]) * rows

    monkeypatch.setattr(hardware_profile, "open_runtime", lambda space, name, on: Vectors(on.precision == "bfloat16"))
    result = hardware_profile.profile(settings_of(sample, cache))
    assert result.settings.get("extract.precision") == ("bfloat16" if chosen else None)
    assert (result.parity >= 0.999) == (noise < 0.1)


def test_a_gpu_waits_for_decoders(sample: Path, cache: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hardware_profile, "open_runtime", lambda *_: Gpu())
    monkeypatch.setattr(hardware_profile, "choose_runtime", lambda name: "torch")
    result = hardware_profile.profile(settings_of(sample, cache))
    assert result.ceiling == min(result.decode, result.model, result.read)
    assert result.bottleneck == "decode"
    assert result.settings["extract.decode_threads"] == result.cores


def test_photos_are_decoded_by_the_gpu_where_that_is_faster(
    sample: Path, cache: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Fast(Gpu):
        seconds = 0.0

        def decoder(self, limits: Limits, otherwise: FallbackDecoder) -> BatchDecoder:
            def decoded(photos: Sequence[bytes]) -> tuple[np.ndarray, dict[int, BadImage]]:
                clock.sleep(self.seconds * len(photos))
                return np.zeros((len(photos), 224, 224, 3), np.uint8), {}

            return decoded

    class Slow(Fast):
        seconds = 0.02

    monkeypatch.setattr(hardware_profile, "choose_runtime", lambda name: "torch")
    for network, decoder in ((Fast, "network"), (Slow, "processes")):
        monkeypatch.setattr(hardware_profile, "open_runtime", lambda *_, one=network: one())
        result = hardware_profile.profile(settings_of(sample, cache))
        assert result.decoder == result.settings.get("extract.decode", "processes") == decoder
        assert (result.settings["extract.decode_threads"] == 1) == (decoder == "network")
        assert result.ceiling == min(result.decode, result.model, result.read)


def test_a_source_without_photos(tmp_path: Path, cache: str) -> None:
    (tmp_path / "x").mkdir()
    with pytest.raises(UsageError, match="no photo there can be read"):
        hardware_profile.profile(settings_of(tmp_path, cache))
    (tmp_path / "x" / "bad.jpg").write_bytes(b"no photo")
    with pytest.raises(UsageError, match="no photo there can be decoded"):
        hardware_profile.profile(settings_of(tmp_path, cache))


def test_the_command(sample: Path, cache: str, capsys: pytest.CaptureFixture[str]) -> None:
    app(["profile", "--source", str(sample), "--set", f"extract.cache={cache}", "--json"], standalone_mode=False)
    output: dict[str, Any] = json.loads(capsys.readouterr().out)
    assert output["space"].startswith("efficientnet_lite0.pool@")
    assert 0 < output["ceiling"] < output["model"]
    app(["profile", "--source", str(sample), "--set", f"extract.cache={cache}"], standalone_mode=False)
    assert "use: --set extract.batch_size=" in capsys.readouterr().out
