"""Networks that learn: what is cut off, kept, resumed, shared between processes, and written as a model."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from likeness.core.errors import DataError, UsageError
from likeness.core.settings import Train
from likeness.images.image import resize_and_crop
from likeness.models.backbones import Space, resolve, untrained_space
from likeness.models.backbones.heads import Activation, Head
from likeness.models.category_classifier import NumpyHead
from likeness.models.recipe import read_recipe
from likeness.models.runtimes.torch_any import TorchRuntime
from likeness.models.training_report import Epoch
from likeness.training import losses
from likeness.training.augmentation import DRAWS, augment, centre_crop
from likeness.training.checkpoints import Checkpoint
from likeness.training.distributed import Workers
from likeness.training.inputs import FeatureCache
from likeness.training.network import Network, cache_preprocessing
from likeness.training.trainer import Dataset, Trainer, predict

SEVERAL = "efficientnet_lite0-96-pad.pool+stage5.mean.l2"
LITE, CACHE = "efficientnet_lite0.pool", "~/.cache/likeness"
SMALL = "efficientnet_lite0-96-pad.pool"
HEAD = Head("logits", 1280, (8,), 3)


@pytest.fixture(scope="module")
def lite() -> Space:
    return resolve(LITE)


@pytest.fixture
def blobs() -> tuple[np.ndarray, torch.Tensor]:
    """120 vectors of 1280 numbers in three heaps."""
    rng = np.random.default_rng(5)
    classes = np.arange(120) % 3
    middles = rng.standard_normal((3, 1280)) * 0.05
    return (middles[classes] + rng.standard_normal((120, 1280)) * 0.2).astype(np.float32), torch.from_numpy(classes)


def blob_dataset(blobs: tuple[np.ndarray, torch.Tensor], rows: int = 120) -> Dataset:
    return Dataset(FeatureCache(blobs[0][:, None]), np.arange(rows), blobs[1], losses.cross_entropy())


def new_network(space: Space, **more: object) -> Network:
    torch.manual_seed(0)
    return Network(space, HEAD, CACHE, **more)  # type: ignore[arg-type]


# -- the network


@pytest.mark.parametrize("name", [LITE, SMALL])
@pytest.mark.parametrize("unfreeze", ["", "stage6", "head", "all"])
def test_what_is_cut_off_and_what_is_left_are_the_network(
    name: str, pictures: list[Image.Image], unfreeze: str
) -> None:
    lite = resolve(name)
    pixels = np.stack([resize_and_crop(picture, cache_preprocessing(lite.preprocessing)) for picture in pictures])
    cut = new_network(lite, unfreeze=unfreeze).eval()
    crops = cut.crop(torch.from_numpy(pixels), None)
    fed = crops if cut.input_kind == "photos" else cut.frozen_features(crops)
    if cut.input_kind != "photos":
        frozen = TorchRuntime(cut.frozen_space, CACHE, 1, "cpu")(crops.numpy().astype(np.uint8))
        np.testing.assert_allclose(frozen.reshape(fed.shape), fed.numpy(), atol=1e-4)
    with torch.no_grad():
        vectors = cut.embed(fed).numpy()
    inputs = np.stack([resize_and_crop(picture, lite.preprocessing) for picture in pictures])
    assert np.abs(crops.numpy() - inputs).max() <= 1, "the middle of the square, but for rounding"
    expected = TorchRuntime(lite, CACHE, 1, "cpu")(crops.numpy().astype(np.uint8))
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert cut.input_kind == {"": "vectors", "all": "photos"}.get(unfreeze, "maps")


def test_no_such_stage(lite: Space) -> None:
    with pytest.raises(UsageError, match=r"train.unfreeze = 'stage9'.*there are: stem, stage1, .*pool, all"):
        new_network(lite, unfreeze="stage9")


def test_norms_that_were_learned_elsewhere_stay(lite: Space) -> None:
    network = new_network(lite, unfreeze="head").train()
    before = {name: value.clone() for name, value in network.trunk.named_buffers()}
    with torch.no_grad():
        network(torch.randn(4, 320, 7, 7))
    assert before
    for name, value in network.trunk.named_buffers():
        assert torch.equal(before[name], value)


def test_earlier_stages_learn_slower(lite: Space) -> None:
    groups = new_network(lite, unfreeze="stage7").parameter_groups(1e-3, 0.5)
    assert [group["lr"] for group in groups] == [1e-3, 5e-4, 2.5e-4]


def test_norms_for_learning_from_scratch_are_gone_when_it_is_written(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    space = untrained_space("alexnet.fc6")
    torch.manual_seed(1)
    student = Network(space, Head("embedding", 4096, (), 16), CACHE, "all", scratch=True).train()
    photos = torch.from_numpy(np.stack([resize_and_crop(picture, space.preprocessing) for picture in pictures]))
    assert any(isinstance(one, torch.nn.BatchNorm2d) for one in student.modules())
    with torch.no_grad():
        student(photos.float())  # moves the norms' statistics
    recipe = student.save(tmp_path / "model.safetensors", with_head=False)
    assert (recipe.backbone, recipe.layer, recipe.head) == ("alexnet", "fc6", None)
    written = resolve("mine.fc6", str(tmp_path / "model.safetensors"))
    assert list(written.spec.layers)[-3:] == ["pool5", "fc6_linear", "fc6"]
    with torch.no_grad():
        expected = student.eval().embed(photos.float()).numpy()
    vectors = TorchRuntime(written, CACHE, 1, "cpu")(photos.numpy())
    assert vectors.std() > 0.01
    np.testing.assert_allclose(vectors, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0.pool", "efficientnet_lite0-squash.stage7.gem", "hog.blocks.mean", SMALL, SEVERAL]
)
def test_a_model_is_a_backbone_like_the_others(tmp_path: Path, pictures: list[Image.Image], name: str) -> None:
    space = resolve(name)
    torch.manual_seed(2)
    network = Network(space, Head("logits", space.dim, (7,), 3, "maxout"), CACHE)
    path = tmp_path / "model.safetensors"
    network.save(path, classes=("hat", "dress", "shoes"), temperature=2.0)
    written = resolve("mine.logits", str(path))
    assert (written.dim, written.spec.classes and written.spec.classes()) == (3, ("hat", "dress", "shoes"))
    assert written.preprocessing == space.preprocessing
    assert resolve("mine.logits", str(path)).id == written.id
    inputs = np.stack([resize_and_crop(picture, space.preprocessing) for picture in pictures])
    vectors = torch.from_numpy(TorchRuntime(space, CACHE, 1, "cpu")(inputs))
    with torch.no_grad():
        expected = network.eval()(vectors).numpy() / 2
    np.testing.assert_allclose(TorchRuntime(written, CACHE, 1, "cpu")(inputs), expected, atol=1e-4)
    below = resolve(f"mine.{'features' if name == SEVERAL else name.partition('.')[2]}", str(path))
    np.testing.assert_allclose(TorchRuntime(below, CACHE, 1, "cpu")(inputs), vectors.numpy(), atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "elu", "leaky", "maxout"])
def test_a_head_without_torch_is_the_head_with_it(tmp_path: Path, lite: Space, activation: Activation) -> None:
    top = Head("logits", 1280, (8, 6), 3, activation)
    torch.manual_seed(2)
    network = Network(lite, top, CACHE).eval()
    network.save(tmp_path / "model.safetensors")
    vectors = np.random.default_rng(3).standard_normal((20, 1280)).astype(np.float32)
    with torch.no_grad():
        expected = network(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(NumpyHead(tmp_path / "model.safetensors", top)(vectors), expected, atol=1e-5)


def test_a_damaged_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(DataError, match=r"model.safetensors is damaged"):
        read_recipe(tmp_path / "model.safetensors")


def test_nothing_is_learned_from_means_over_views() -> None:
    with pytest.raises(UsageError, match=r"-flip.pool is a mean over views.*train on efficientnet_lite0.pool, and"):
        new_network(resolve("efficientnet_lite0-flip.pool"))


# -- distortions


def test_nothing_is_distorted_by_the_right_draws(pictures: list[Image.Image], lite: Space) -> None:
    how = lite.preprocessing
    photos = torch.from_numpy(np.stack([resize_and_crop(picture, cache_preprocessing(how)) for picture in pictures]))
    draws = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.9, 0.5]]).repeat(len(photos), 1)
    small = torch.nn.functional.interpolate(photos.permute(0, 3, 1, 2).float(), how.crop, mode="bilinear")
    np.testing.assert_allclose(augment(photos, draws, how).permute(0, 3, 1, 2), small, atol=0.1)
    mirrored = draws.clone()
    mirrored[:, 4] = 0.1
    np.testing.assert_allclose(augment(photos, mirrored, how).flip(2), augment(photos, draws, how), atol=0.1)
    assert centre_crop(photos, how).shape == (len(photos), how.crop, how.crop, 3)


def test_each_draw_changes_a_photo(pictures: list[Image.Image], lite: Space) -> None:
    how = lite.preprocessing
    photo = torch.from_numpy(resize_and_crop(pictures[0], cache_preprocessing(how)).copy())[None]
    draws = torch.full((1, DRAWS), 0.4)
    augmented = augment(photo, draws, how)
    assert 0 <= augmented.min() <= augmented.max() <= 255
    for number in range(DRAWS):
        other = draws.clone()
        other[0, number] = 0.95
        assert (augment(photo, other, how) - augmented).abs().mean() > 0.5


# -- the loop


def test_the_same_seed_gives_the_same_network(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    states = []
    for seed in (0, 0, 1):
        network = new_network(lite, dropout=0.5)
        Trainer(Train(batch_size=16)).fit(network, blob_dataset(blobs), 3, seed)
        states.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_heaps_are_told_apart(lite: Space, blobs: tuple[np.ndarray, torch.Tensor], optimizer: str) -> None:
    how = Train(batch_size=16, optimizer=optimizer, rate=5e-3 if optimizer == "adamw" else 0.05, weight_decay=1e-4)
    network = new_network(lite)
    history = Trainer(how).fit(network, blob_dataset(blobs, 90), 20, 0)
    assert history.epochs[-1].loss < 0.3 < history.epochs[0].loss
    said = predict(network, FeatureCache(blobs[0][:, None]), np.arange(90, 120)).argmax(axis=1)
    assert (said == blobs[1][90:].numpy()).mean() > 0.9


def test_shuffled_labels_teach_nothing(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    vectors, classes = blobs
    shuffled = classes[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    network = new_network(lite)
    Trainer(Train(batch_size=16)).fit(network, blob_dataset((vectors, shuffled), 60), 20, 0)
    said = predict(network, FeatureCache(vectors[:, None]), np.arange(60, 120)).argmax(axis=1)
    assert (said == classes[60:].numpy()).mean() < 0.6


def test_it_ends_when_nothing_gets_better_and_keeps_the_best(
    lite: Space, blobs: tuple[np.ndarray, torch.Tensor]
) -> None:
    metrics = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    states: list[torch.Tensor] = []

    def validate(network: Network) -> float:
        states.append(network.head.linears[0].weight.detach().clone())
        return next(metrics)

    network = new_network(lite)
    history = Trainer(Train(patience=3, batch_size=60)).fit(network, blob_dataset(blobs), 30, 0, validate)
    assert ([epoch.validation for epoch in history.epochs], history.best) == ([0.5, 0.7, 0.6, 0.7, 0.65], 1)
    assert torch.equal(network.head.linears[0].weight, states[1])


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_step_in_pieces_is_the_step(lite: Space, blobs: tuple[np.ndarray, torch.Tensor], pieces: int) -> None:
    states = []
    for accumulate in (1, pieces):
        network = new_network(lite)
        Trainer(Train(batch_size=40, accumulate=accumulate, optimizer="sgd")).fit(network, blob_dataset(blobs), 2, 0)
        states.append(torch.cat([value.flatten() for value in network.state_dict().values()]))
    torch.testing.assert_close(states[0], states[1], atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_no_number_ends_it(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    vectors = blobs[0].copy()
    vectors[7] = np.nan
    with pytest.raises(DataError, match=r"the loss is nan in epoch 1; no model is written. Lower train.rate"):
        Trainer(Train()).fit(new_network(lite), blob_dataset((vectors, blobs[1])), 2, 0)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    lite: Space, blobs: tuple[np.ndarray, torch.Tensor], tmp_path: Path, optimizer: str
) -> None:
    how, uri = Train(batch_size=16, optimizer=optimizer, dropout=0.3), f"file://{tmp_path}/state.safetensors"
    never = new_network(lite, dropout=0.3)
    expected = Trainer(how).fit(never, blob_dataset(blobs), 4, 0, lambda _: 0.5)

    def stop(done: int, epoch: Epoch) -> None:
        if done == 2:
            raise _Killed

    begun = Trainer(how, checkpoint=Checkpoint(uri, 0, "one"), on_epoch=stop)
    with pytest.raises(_Killed):
        begun.fit(new_network(lite, dropout=0.3), blob_dataset(blobs), 4, 0, lambda _: 0.5)
    again = new_network(lite, dropout=0.3)
    seen: list[int] = []
    history = Trainer(how, checkpoint=Checkpoint(uri, 1e9, "one"), on_epoch=lambda done, epoch: seen.append(done)).fit(
        again, blob_dataset(blobs), 4, 0, lambda _: 0.5
    )
    assert seen[0] == 2, "the second epoch was at its end, and is judged again"
    assert [round(one.loss, 5) for one in history.epochs[2:]] == [round(one.loss, 5) for one in expected.epochs[2:]]
    for name, value in never.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    other = Checkpoint(uri, 1e9, "another")
    assert other.load(again, torch.optim.SGD(again.parameters(), lr=1), {}) is None, "it is of another training"
    (tmp_path / "state.safetensors").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"state.safetensors is damaged.*delete it to start again"):
        Checkpoint(uri, 1e9, "one").load(again, torch.optim.SGD(again.parameters(), lr=1), {})


TOGETHER = """
import json, sys
import numpy as np, torch
from likeness.models.backbones import resolve
from likeness.models.backbones.heads import Head
from likeness.core.settings import Train
from likeness.training import losses
from likeness.training.inputs import FeatureCache
from likeness.training.trainer import Dataset, Trainer
from likeness.training.network import Network
from likeness.training.distributed import join_workers

rng = np.random.default_rng(6)
classes = np.arange(64) % 4
vectors = (rng.standard_normal((4, 1280))[classes] * 0.1 + rng.standard_normal((64, 1280)) * 0.3).astype(np.float32)
with join_workers() as workers:
    unit = sys.argv[1] != "softmax"
    torch.manual_seed(0)
    space, head = resolve("efficientnet_lite0.pool"), Head("embedding", 1280, (16,), 4, unit=unit)
    network = Network(space, head, "~/.cache/likeness")
    loss = {
        "softmax": losses.cross_entropy(),
        "contrastive": losses.contrastive(workers, 0.1),
        "triplet": losses.triplet(workers),
    }[sys.argv[1]]
    dataset = Dataset(FeatureCache(vectors[:, None]), np.arange(64), torch.from_numpy(classes), loss)
    how = Train(batch_size=32, optimizer="sgd", rate=0.02, accumulate=int(sys.argv[2]))
    Trainer(how, workers).fit(network, dataset, 3, 0)
    if workers.is_first:
        print(json.dumps([workers.world_size, *torch.cat([p.flatten()[:50] for p in network.parameters()]).tolist()]))
"""


@pytest.mark.parametrize(("loss", "pieces"), [("softmax", 1), ("softmax", 2), ("contrastive", 1), ("triplet", 1)])
def test_two_processes_learn_what_one_learns(tmp_path: Path, loss: str, pieces: int) -> None:
    program = tmp_path / "together.py"
    program.write_text(TOGETHER)
    base = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "MASTER_ADDR": "127.0.0.1"}

    def started(**more: str) -> "subprocess.Popen[str]":
        command = [sys.executable, str(program), loss, str(pieces)]
        return subprocess.Popen(command, env=base | more, text=True, stdout=subprocess.PIPE)

    alone = json.loads(started().communicate(timeout=120)[0])
    port = str(29_500 + os.getpid() % 1000)
    both = [started(WORLD_SIZE="2", RANK=rank, LOCAL_RANK=rank, MASTER_PORT=port) for rank in "01"]
    outputs = [process.communicate(timeout=120)[0] for process in both]
    together = json.loads(outputs[0])
    assert (alone[0], together[0], outputs[1]) == (1, 2, "")
    np.testing.assert_allclose(together[1:], alone[1:], atol=1e-5)


def test_more_processes_than_photos(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    with pytest.raises(UsageError, match=r"train.processes = 2: there are 1 photos"):
        Trainer(Train(), Workers(0, 2)).fit(new_network(lite), blob_dataset(blobs, 1), 1, 0)
