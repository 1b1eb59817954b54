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
from likeness.images.image import fit
from likeness.models.backbones import Space, resolve, weightless
from likeness.models.backbones.heads import Activation, Head
from likeness.models.category_classifier import NumpyHead
from likeness.models.recipe import recipe_of
from likeness.models.runtimes.torch_any import TorchRuntime
from likeness.training import losses
from likeness.training.augmentation import DRAWS, distorted, middle
from likeness.training.checkpoints import Checkpoint
from likeness.training.distributed import Workers
from likeness.training.history import Epoch
from likeness.training.inputs import FeatureCache
from likeness.training.network import Network, whole
from likeness.training.trainer import Dataset, Trainer, answers

SEVERAL = "efficientnet_lite0-96-pad.pool+stage5.mean.l2"
LITE, CACHE = "efficientnet_lite0.pool", "~/.cache/likeness"
SMALL = "efficientnet_lite0-96-pad.pool"
TOP = Head("logits", 1280, (8,), 3)


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


def lesson(blobs: tuple[np.ndarray, torch.Tensor], rows: int = 120) -> Dataset:
    return Dataset(FeatureCache(blobs[0][:, None]), np.arange(rows), blobs[1], losses.cross_entropy())


def learner(space: Space, **more: object) -> Network:
    torch.manual_seed(0)
    return Network(space, TOP, CACHE, **more)  # type: ignore[arg-type]


# -- the network


@pytest.mark.parametrize("name", [LITE, SMALL])
@pytest.mark.parametrize("unfreeze", ["", "stage6", "head", "all"])
def test_what_is_cut_off_and_what_is_left_are_the_network(
    name: str, pictures: list[Image.Image], unfreeze: str
) -> None:
    lite = resolve(name)
    pixels = np.stack([fit(picture, whole(lite.preprocessing)) for picture in pictures])
    found = learner(lite, unfreeze=unfreeze).eval()
    given = found.pixels(torch.from_numpy(pixels), None)
    fed = given if found.eats == "photos" else found.before(given)
    if found.eats != "photos":
        frozen = TorchRuntime(found.frozen, CACHE, 1)(given.numpy().astype(np.uint8))
        np.testing.assert_allclose(frozen.reshape(fed.shape), fed.numpy(), atol=1e-4)
    with torch.no_grad():
        vectors = found.below(fed).numpy()
    inputs = np.stack([fit(picture, lite.preprocessing) for picture in pictures])
    assert np.abs(given.numpy() - inputs).max() <= 1, "the middle of the square, but for rounding"
    expected = TorchRuntime(lite, CACHE, 1)(given.numpy().astype(np.uint8))
    np.testing.assert_allclose(vectors, expected, atol=1e-4)
    assert found.eats == {"": "vectors", "all": "photos"}.get(unfreeze, "maps")


def test_no_such_stage(lite: Space) -> None:
    with pytest.raises(UsageError, match=r"train.unfreeze = 'stage9'.*there are: stem, stage1, .*pool, all"):
        learner(lite, unfreeze="stage9")


def test_norms_that_were_learned_elsewhere_stay(lite: Space) -> None:
    found = learner(lite, unfreeze="head").train()
    before = {name: value.clone() for name, value in found.trunk.named_buffers()}
    with torch.no_grad():
        found(torch.randn(4, 320, 7, 7))
    assert before
    for name, value in found.trunk.named_buffers():
        assert torch.equal(before[name], value)


def test_earlier_stages_learn_slower(lite: Space) -> None:
    groups = learner(lite, unfreeze="stage7").rates(1e-3, 0.5)
    assert [group["lr"] for group in groups] == [1e-3, 5e-4, 2.5e-4]


def test_norms_for_learning_from_scratch_are_gone_when_it_is_written(
    tmp_path: Path, pictures: list[Image.Image]
) -> None:
    space = weightless("alexnet.fc6")
    torch.manual_seed(1)
    student = Network(space, Head("embedding", 4096, (), 16), CACHE, "all", scratch=True).train()
    photos = torch.from_numpy(np.stack([fit(picture, space.preprocessing) for picture in pictures]))
    assert any(isinstance(one, torch.nn.BatchNorm2d) for one in student.modules())
    with torch.no_grad():
        student(photos.float())  # moves the norms' statistics
    recipe = student.write(tmp_path / "model.safetensors", whole=False)
    assert (recipe.backbone, recipe.layer, recipe.top) == ("alexnet", "fc6", None)
    written = resolve("mine.fc6", str(tmp_path / "model.safetensors"))
    assert list(written.spec.layers)[-3:] == ["pool5", "fc6_linear", "fc6"]
    with torch.no_grad():
        expected = student.eval().below(photos.float()).numpy()
    found = TorchRuntime(written, CACHE, 1)(photos.numpy())
    assert found.std() > 0.01
    np.testing.assert_allclose(found, expected, atol=1e-4)


@pytest.mark.parametrize(
    "name", ["efficientnet_lite0.pool", "efficientnet_lite0-squash.stage7.gem", "hog.blocks.mean", SMALL, SEVERAL]
)
def test_a_model_is_a_backbone_like_the_others(tmp_path: Path, pictures: list[Image.Image], name: str) -> None:
    space = resolve(name)
    torch.manual_seed(2)
    found = Network(space, Head("logits", space.dim, (7,), 3, "maxout"), CACHE)
    path = tmp_path / "model.safetensors"
    found.write(path, classes=("hat", "dress", "shoes"), temperature=2.0)
    written = resolve("mine.logits", str(path))
    assert (written.dim, written.spec.classes and written.spec.classes()) == (3, ("hat", "dress", "shoes"))
    assert written.preprocessing == space.preprocessing
    assert resolve("mine.logits", str(path)).id == written.id
    inputs = np.stack([fit(picture, space.preprocessing) for picture in pictures])
    vectors = torch.from_numpy(TorchRuntime(space, CACHE, 1)(inputs))
    with torch.no_grad():
        expected = found.eval()(vectors).numpy() / 2
    np.testing.assert_allclose(TorchRuntime(written, CACHE, 1)(inputs), expected, atol=1e-4)
    below = resolve(f"mine.{'features' if name == SEVERAL else name.partition('.')[2]}", str(path))
    np.testing.assert_allclose(TorchRuntime(below, CACHE, 1)(inputs), vectors.numpy(), atol=1e-4)


@pytest.mark.parametrize("activation", ["relu", "elu", "leaky", "maxout"])
def test_a_head_without_torch_is_the_head_with_it(tmp_path: Path, lite: Space, activation: Activation) -> None:
    top = Head("logits", 1280, (8, 6), 3, activation)
    torch.manual_seed(2)
    found = Network(lite, top, CACHE).eval()
    found.write(tmp_path / "model.safetensors")
    vectors = np.random.default_rng(3).standard_normal((20, 1280)).astype(np.float32)
    with torch.no_grad():
        expected = found(torch.from_numpy(vectors)).numpy()
    np.testing.assert_allclose(NumpyHead(tmp_path / "model.safetensors", top)(vectors), expected, atol=1e-5)


def test_a_damaged_model_is_told(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"\x10\0\0\0\0\0\0\0{}")
    with pytest.raises(DataError, match=r"model.safetensors is damaged"):
        recipe_of(tmp_path / "model.safetensors")


def test_nothing_is_learned_from_means_over_views() -> None:
    with pytest.raises(UsageError, match=r"-flip.pool is a mean over views.*learn from efficientnet_lite0.pool, and"):
        learner(resolve("efficientnet_lite0-flip.pool"))


# -- distortions


def test_nothing_is_distorted_by_the_right_draws(pictures: list[Image.Image], lite: Space) -> None:
    how = lite.preprocessing
    photos = torch.from_numpy(np.stack([fit(picture, whole(how)) for picture in pictures]))
    draws = torch.tensor([[1.0, 0.5, 0.5, 0.5, 0.9, 0.5]]).repeat(len(photos), 1)
    small = torch.nn.functional.interpolate(photos.permute(0, 3, 1, 2).float(), how.crop, mode="bilinear")
    np.testing.assert_allclose(distorted(photos, draws, how).permute(0, 3, 1, 2), small, atol=0.1)
    mirrored = draws.clone()
    mirrored[:, 4] = 0.1
    np.testing.assert_allclose(distorted(photos, mirrored, how).flip(2), distorted(photos, draws, how), atol=0.1)
    assert middle(photos, how).shape == (len(photos), how.crop, how.crop, 3)


def test_each_draw_changes_a_photo(pictures: list[Image.Image], lite: Space) -> None:
    how = lite.preprocessing
    photo = torch.from_numpy(fit(pictures[0], whole(how)).copy())[None]
    draws = torch.full((1, DRAWS), 0.4)
    found = distorted(photo, draws, how)
    assert 0 <= found.min() <= found.max() <= 255
    for number in range(DRAWS):
        other = draws.clone()
        other[0, number] = 0.95
        assert (distorted(photo, other, how) - found).abs().mean() > 0.5


# -- the loop


def test_the_same_seed_gives_the_same_network(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    states = []
    for seed in (0, 0, 1):
        found = learner(lite, dropout=0.5)
        Trainer(Train(batch_size=16)).fit(found, lesson(blobs), 3, seed)
        states.append(torch.cat([value.flatten() for value in found.state_dict().values()]))
    assert torch.equal(states[0], states[1])
    assert not torch.equal(states[0], states[2])


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_heaps_are_told_apart(lite: Space, blobs: tuple[np.ndarray, torch.Tensor], optimizer: str) -> None:
    how = Train(batch_size=16, optimizer=optimizer, rate=5e-3 if optimizer == "adamw" else 0.05, weight_decay=1e-4)
    found = learner(lite)
    course = Trainer(how).fit(found, lesson(blobs, 90), 20, 0)
    assert course.epochs[-1].loss < 0.3 < course.epochs[0].loss
    said = answers(found, FeatureCache(blobs[0][:, None]), np.arange(90, 120)).argmax(axis=1)
    assert (said == blobs[1][90:].numpy()).mean() > 0.9


def test_shuffled_labels_teach_nothing(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    vectors, classes = blobs
    shuffled = classes[torch.randperm(120, generator=torch.Generator().manual_seed(0))]
    found = learner(lite)
    Trainer(Train(batch_size=16)).fit(found, lesson((vectors, shuffled), 60), 20, 0)
    said = answers(found, FeatureCache(vectors[:, None]), np.arange(60, 120)).argmax(axis=1)
    assert (said == classes[60:].numpy()).mean() < 0.6


def test_it_ends_when_nothing_gets_better_and_keeps_the_best(
    lite: Space, blobs: tuple[np.ndarray, torch.Tensor]
) -> None:
    judged = iter([0.5, 0.7, 0.6, 0.7, 0.65, 0.9])
    states: list[torch.Tensor] = []

    def judge(found: Network) -> float:
        states.append(found.top.linears[0].weight.detach().clone())
        return next(judged)

    found = learner(lite)
    course = Trainer(Train(patience=3, batch_size=60)).fit(found, lesson(blobs), 30, 0, judge)
    assert ([epoch.judged for epoch in course.epochs], course.best) == ([0.5, 0.7, 0.6, 0.7, 0.65], 1)
    assert torch.equal(found.top.linears[0].weight, states[1])


@pytest.mark.parametrize("pieces", [2, 3])
def test_a_step_in_pieces_is_the_step(lite: Space, blobs: tuple[np.ndarray, torch.Tensor], pieces: int) -> None:
    states = []
    for accumulate in (1, pieces):
        found = learner(lite)
        Trainer(Train(batch_size=40, accumulate=accumulate, optimizer="sgd")).fit(found, lesson(blobs), 2, 0)
        states.append(torch.cat([value.flatten() for value in found.state_dict().values()]))
    torch.testing.assert_close(states[0], states[1], atol=1e-6, rtol=1e-4)


def test_a_loss_that_is_no_number_ends_it(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    vectors = blobs[0].copy()
    vectors[7] = np.nan
    with pytest.raises(DataError, match=r"the loss is nan in epoch 1; nothing is kept. Lower train.rate"):
        Trainer(Train()).fit(learner(lite), lesson((vectors, blobs[1])), 2, 0)


class _Killed(Exception):
    pass


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
def test_a_training_that_was_killed_goes_on_as_if_it_had_not_been(
    lite: Space, blobs: tuple[np.ndarray, torch.Tensor], tmp_path: Path, optimizer: str
) -> None:
    how, uri = Train(batch_size=16, optimizer=optimizer, dropout=0.3), f"file://{tmp_path}/state.safetensors"
    never = learner(lite, dropout=0.3)
    expected = Trainer(how).fit(never, lesson(blobs), 4, 0, lambda _: 0.5)

    def stop(done: int, epoch: Epoch) -> None:
        if done == 2:
            raise _Killed

    begun = Trainer(how, checkpoint=Checkpoint(uri, 0, "one"), tell=stop)
    with pytest.raises(_Killed):
        begun.fit(learner(lite, dropout=0.3), lesson(blobs), 4, 0, lambda _: 0.5)
    again = learner(lite, dropout=0.3)
    seen: list[int] = []
    course = Trainer(how, checkpoint=Checkpoint(uri, 1e9, "one"), tell=lambda done, epoch: seen.append(done)).fit(
        again, lesson(blobs), 4, 0, lambda _: 0.5
    )
    assert seen[0] == 2, "the second epoch was at its end, and is judged again"
    assert [round(one.loss, 5) for one in course.epochs[2:]] == [round(one.loss, 5) for one in expected.epochs[2:]]
    for name, value in never.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value)
    other = Checkpoint(uri, 1e9, "another")
    assert other.load(again, torch.optim.SGD(again.parameters(), lr=1), {}) is None, "it is of another training"
    (tmp_path / "state.safetensors").write_bytes(b"rubbish")
    with pytest.raises(DataError, match=r"state.safetensors is damaged.*delete it to begin anew"):
        Checkpoint(uri, 1e9, "one").load(again, torch.optim.SGD(again.parameters(), lr=1), {})


TOGETHER = """
import json, sys
import numpy as np, torch
from likeness.backbones import resolve
from likeness.backbones.tops import Top
from likeness.settings import Train
from likeness.training import losses
from likeness.training.feeds import Known
from likeness.training.fit import Lesson, Trainer
from likeness.training.learner import Learner
from likeness.training.ranks import joined

rng = np.random.default_rng(6)
classes = np.arange(64) % 4
vectors = (rng.standard_normal((4, 1280))[classes] * 0.1 + rng.standard_normal((64, 1280)) * 0.3).astype(np.float32)
with joined() as ranks:
    unit = sys.argv[1] != "softmax"
    torch.manual_seed(0)
    space, top = resolve("efficientnet_lite0.pool"), Top("embedding", 1280, (16,), 4, unit=unit)
    learner = Learner(space, top, "~/.cache/likeness")
    loss = {
        "softmax": losses.cross_entropy(),
        "contrastive": losses.contrastive(ranks, 0.1),
        "triplet": losses.triplet(ranks),
    }[sys.argv[1]]
    lesson = Lesson(Known(vectors[:, None]), np.arange(64), torch.from_numpy(classes), loss)
    how = Train(batch_size=32, optimizer="sgd", rate=0.02, accumulate=int(sys.argv[2]))
    Trainer(how, ranks).fit(learner, lesson, 3, 0)
    if ranks.first:
        print(json.dumps([ranks.of, *torch.cat([p.flatten()[:50] for p in learner.parameters()]).tolist()]))
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
    told = [process.communicate(timeout=120)[0] for process in both]
    together = json.loads(told[0])
    assert (alone[0], together[0], told[1]) == (1, 2, "")
    np.testing.assert_allclose(together[1:], alone[1:], atol=1e-5)


def test_more_processes_than_photos(lite: Space, blobs: tuple[np.ndarray, torch.Tensor]) -> None:
    with pytest.raises(UsageError, match=r"train.processes = 2: there are 1 photos"):
        Trainer(Train(), Workers(0, 2)).fit(learner(lite), lesson(blobs, 1), 1, 0)
