"""Backbones: the registry's specs against the networks themselves, spaces, and where weights come from."""

import dataclasses
import hashlib
import http.server
import os
import pickle
import re
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from likeness.core.errors import ServiceError, SpaceMismatch, UsageError
from likeness.models.backbones import Space, alexnet, registry, resolve, weights
from likeness.models.backbones.weights import load_into, torchvision_file

# -- the registry


def test_a_layer_gives_what_its_spec_says(space: Space, reference: tuple[np.ndarray, np.ndarray]) -> None:
    inputs, vectors = reference
    assert (vectors.shape, vectors.dtype) == ((len(inputs), space.dim), np.float32)
    assert np.isfinite(vectors).all()
    assert np.abs(vectors[0] - vectors[1]).max() > 0


# -- spaces


def test_the_embedded_default_is_the_space_it_always_was() -> None:
    """If this fails, the vectors of every root must be extracted anew: is that meant?"""
    assert resolve("efficientnet_lite0.pool").id == "efficientnet_lite0.pool@48a432dd"


def test_a_space_id_is_stable_and_names_the_layer(space: Space, weights: dict[str, str]) -> None:
    assert re.fullmatch(rf"{re.escape(space.name)}@[0-9a-f]{{8}}", space.id)
    again = resolve(space.name, weights[space.backbone])
    assert (again, again.id) == (space, space.id)
    elsewhere = dataclasses.replace(space, weights_path="/somewhere/else")
    assert elsewhere.id == space.id


def test_a_space_id_changes_with_all_that_makes_the_vector(monkeypatch: pytest.MonkeyPatch) -> None:
    space = Space("alexnet", "fc6", 4096, "a" * 64, "/x")
    ids = [space.id]
    for other in ({"weights_sha256": "b" * 64}, {"layer": "fc6_linear"}, {"dim": 4095}):
        ids.append(dataclasses.replace(space, **other).id)
    spec, *others = alexnet.BACKBONES
    for change in (
        {"resize": 255},
        {"crop": 223},
        {"mean": (0.4, 0.4, 0.4)},
        {"scale": 1.0},
        {"interpolation": "bicubic"},
        {"shape": "pad"},
        {"views": "flip"},
    ):
        how: Any = dataclasses.replace(spec.preprocessing, **change)
        monkeypatch.setattr(alexnet, "BACKBONES", (dataclasses.replace(spec, preprocessing=how), *others))
        ids.append(space.id)
    monkeypatch.setattr(alexnet, "BACKBONES", (dataclasses.replace(spec, doc="other words", licence="other"), *others))
    assert len({each.partition("@")[2] for each in ids}) == len(ids) == 11
    assert space.id == ids[0]


def test_other_weights_are_another_space(tmp_path: Path) -> None:
    (tmp_path / "one").write_bytes(b"1")
    (tmp_path / "two").write_bytes(b"2")
    one, two = (resolve("alexnet.fc6", str(tmp_path / name)) for name in ("one", "two"))
    assert one.weights_sha256 == hashlib.sha256(b"1").hexdigest()
    assert one.id != two.id
    (tmp_path / "three").write_bytes(b"1")
    assert resolve("alexnet.fc6", str(tmp_path / "three")).id == one.id


def test_a_pinned_space(tmp_path: Path) -> None:
    (tmp_path / "w").write_bytes(b"1")
    space = resolve("alexnet.fc6", str(tmp_path / "w"))
    assert resolve(space.id, str(tmp_path / "w")) == space
    (tmp_path / "w").write_bytes(b"2")
    with pytest.raises(SpaceMismatch) as caught:
        resolve(space.id, str(tmp_path / "w"))
    message = str(caught.value)
    for part in (space.id, resolve("alexnet.fc6", str(tmp_path / "w")).id, str(tmp_path / "w"), "extract.weights"):
        assert part in message


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("alexnet.fc66", "alexnet.fc6"),
        ("alexnett.fc6", "alexnet.fc6"),
        ("efficientnet_lite0", "efficientnet_lite0.pool"),
        ("efficientnet_lite0.avgpool@48a432dd", "efficientnet_lite0.pool"),
    ],
)
def test_an_unknown_space_names_the_nearest(name: str, meant: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean {re.escape(meant)}[?]") as caught:
        resolve(name)
    assert caught.value.exit_code == 2


def test_an_unknown_space_that_is_near_nothing_lists_all() -> None:
    with pytest.raises(UsageError) as caught:
        resolve("zzz")
    assert all(name in str(caught.value) for name in registry())


# -- weights files


@pytest.mark.parametrize("name", ["nowhere.pth", ""])
def test_a_weights_file_that_is_not_there(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match=r"extract\.weights = .*no such file"):
        resolve("alexnet.fc6", str(tmp_path / name))


def test_weights_of_the_home_folder_may_be_named_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "w").write_bytes(b"1")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("alexnet.fc6", "~/w").weights_path == str(tmp_path / "w")
    monkeypatch.chdir(tmp_path)
    assert resolve("alexnet.fc6", "w").weights_path == str(tmp_path / "w")  # workers have other working folders


def test_both_kinds_of_weights_files(tmp_path: Path) -> None:
    import torch
    from safetensors.torch import save_file

    model = torch.nn.Linear(3, 2)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    save_file(model.state_dict(), tmp_path / "w.safetensors")
    for name in ("w.pth", "w.safetensors"):
        loaded = load_into(torch.nn.Linear(3, 2), tmp_path / name)
        assert torch.equal(loaded.weight, model.weight)  # type: ignore[arg-type]
        assert not loaded.training


def wrong_network(path: Path) -> None:
    import torch

    torch.save(torch.nn.Linear(4, 2).state_dict(), path)


def no_state_dict(path: Path) -> None:
    import torch

    torch.save(torch.zeros(3), path)


WRONG: dict[str, Callable[[Path], object]] = {
    "another network": wrong_network,
    "a tensor": no_state_dict,
    "text": lambda path: path.write_text("no weights"),
    "empty": lambda path: path.write_bytes(b""),
    "folder": lambda path: path.mkdir(),
}


@pytest.mark.parametrize("suffix", ["pth", "safetensors"])
@pytest.mark.parametrize("kind", WRONG)
def test_a_weights_file_that_does_not_fit(tmp_path: Path, kind: str, suffix: str) -> None:
    import torch

    path = tmp_path / f"w.{suffix}"
    WRONG[kind](path)
    with pytest.raises(UsageError, match="does not fit Linear") as caught:
        load_into(torch.nn.Linear(3, 2), path)
    assert str(path) in str(caught.value)


class Trap:
    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[object, ...]]:
        return os.mkdir, (str(self.path),)


def test_a_weights_file_never_runs_code(tmp_path: Path) -> None:
    import torch

    for number, write in enumerate((torch.save, lambda trap, path: path.write_bytes(pickle.dumps(trap)))):
        write({"weight": Trap(tmp_path / "sprung")}, tmp_path / f"{number}.pth")
        with pytest.raises(UsageError):
            load_into(torch.nn.Linear(3, 2), tmp_path / f"{number}.pth")
    assert not (tmp_path / "sprung").exists()


# -- torchvision's own weights


@pytest.fixture
def torch_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache, and no proxy between the tests and this machine."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("no_proxy", "*")
    return tmp_path / "torch" / "hub" / "checkpoints"


def refused(filename: str) -> str:
    begun = time.perf_counter()
    with pytest.raises(ServiceError) as caught:
        torchvision_file(filename)
    assert time.perf_counter() - begun < 5
    return str(caught.value)


def test_weights_of_the_cache_are_taken_without_a_network(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_TORCHVISION", "http://127.0.0.1:9")
    torch_home.mkdir(parents=True)
    (torch_home / "alexnet-owt-7be5be79.pth").write_bytes(b"1")
    assert resolve("alexnet.fc6").weights_path == str(torch_home / "alexnet-owt-7be5be79.pth")
    monkeypatch.delenv("TORCH_HOME")
    monkeypatch.setenv("XDG_CACHE_HOME", str(torch_home.parents[2]))
    assert torchvision_file("alexnet-owt-7be5be79.pth") == torch_home / "alexnet-owt-7be5be79.pth"


def test_weights_out_of_reach_name_both_ways(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_TORCHVISION", "http://127.0.0.1:9")
    begun = time.perf_counter()
    with pytest.raises(ServiceError) as caught:
        resolve("alexnet.fc6")
    assert time.perf_counter() - begun < 5
    message = str(caught.value)
    assert "copy the file there, or name a weights file with --set extract.weights=FILE" in message
    assert str(torch_home) in message
    assert "alexnet-owt-7be5be79.pth" in message


def test_a_host_that_does_not_answer_is_given_up(torch_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights, "_CONNECT_S", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as silent:
        monkeypatch.setattr(weights, "_TORCHVISION", f"http://127.0.0.1:{silent.getsockname()[1]}")
        assert "cannot be downloaded" in refused("net-00000000.pth")


CONTENT = b"weights" * 1000
GOOD = f"net-{hashlib.sha256(CONTENT).hexdigest()[:8]}.pth"


@pytest.fixture
def mirror(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder that a server of this machine gives out in the place of torchvision's host."""
    folder = tmp_path / "mirror"
    folder.mkdir()

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args: Any) -> None:
            super().__init__(*args, directory=str(folder))

        def log_message(self, *args: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Quiet) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setattr(weights, "_TORCHVISION", f"http://127.0.0.1:{server.server_port}")
        yield folder
        server.shutdown()


def test_weights_are_downloaded_once(torch_home: Path, mirror: Path) -> None:
    (mirror / GOOD).write_bytes(CONTENT)
    assert torchvision_file(GOOD) == torch_home / GOOD
    (mirror / GOOD).unlink()
    assert torchvision_file(GOOD).read_bytes() == CONTENT


def test_a_download_of_other_bytes_is_refused_and_not_kept(torch_home: Path, mirror: Path) -> None:
    (mirror / GOOD).write_bytes(CONTENT[:-1])
    assert "invalid hash" in refused(GOOD)
    assert list(torch_home.iterdir()) == []
    assert "404" in refused("other-00000000.pth")


def test_a_cache_that_cannot_be_written(tmp_path: Path, mirror: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (mirror / GOOD).write_bytes(CONTENT)
    (tmp_path / "file").write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "file"))
    monkeypatch.setenv("no_proxy", "*")
    assert f"{tmp_path}/file" in refused(GOOD)
