"""Versions of models: immutable, checked, compared before they are put in service, and taken back."""

import datetime
import hashlib
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from likeness.core.errors import DataError, GateError, ServiceError, SpaceMismatch, UsageError
from likeness.core.settings import Extract, Settings
from likeness.models.backbones import resolve
from likeness.models.backbones.heads import Head
from likeness.models.model_card import Evaluation, Metric, ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.spaces import space_of
from likeness.models.training_report import TrainingReport
from likeness.storage.artifact import File
from likeness.storage.leases import Lease
from likeness.training.network import Network

Make = Callable[..., ModelCard]
NOW = datetime.datetime(2026, 1, 2, tzinfo=datetime.UTC)


@pytest.fixture
def models(tmp_path: Path) -> ModelRegistry:
    return ModelRegistry(str(tmp_path / "root"))


@pytest.fixture
def make(models: ModelRegistry, tmp_path: Path) -> Make:
    """make(version, accuracy): writes a version of the model `clothes`, each with weights of its own."""

    def write(version: str, accuracy: float = 0.8, evaluation: str = "v@0001", name: str = "clothes") -> ModelCard:
        torch.manual_seed(int(hashlib.sha256(version.encode()).hexdigest()[:6], 16))
        network = Network(resolve("efficientnet_lite0.pool"), Head("logits", 1280, (), 2), "")
        path = tmp_path / f"{version}.safetensors"
        network.save(path, classes=("hat", "dress"))
        data = path.read_bytes()
        card = ModelCard(
            name=name,
            version=version,
            task="category",
            layer="logits",
            space="efficientnet_lite0.pool@48a432dd",
            parent="efficientnet_lite0.pool@48a432dd",
            frozen=True,
            classes=("hat", "dress"),
            snapshots={"features": 1},
            photos=10,
            evaluation=evaluation,
            metrics={"accuracy": Metric(value=accuracy, low=accuracy - 0.1, high=accuracy + 0.1)},
            candidates=(),
            temperature=1.0,
            seed=0,
            settings={},
            licence="Apache-2.0",
            created=NOW,
            run_id="run",
            weights=File(name="model.safetensors", bytes=len(data), sha256=hashlib.sha256(data).hexdigest()),
        )
        models.write(card, path, TrainingReport(epochs=(), best=-1))
        return card

    return write


def test_a_version_is_read_as_it_was_written_and_never_changes(models: ModelRegistry, make: Make) -> None:
    card = make("1")
    assert models.card("clothes", "1") == card
    assert (models.names(), models.versions("clothes")) == (["clothes"], ["1"])
    with pytest.raises(DataError, match=r"exists already, and versions never change"):
        make("1")


def test_a_version_without_a_card_is_none(models: ModelRegistry, make: Make, tmp_path: Path) -> None:
    make("1")
    (tmp_path / "root/models/clothes/2").mkdir()
    (tmp_path / "root/models/clothes/2/model.safetensors").write_bytes(b"half")
    assert models.versions("clothes") == ["1"]


def test_a_better_one_is_promoted_and_taken_back(models: ModelRegistry, make: Make) -> None:
    first, second = make("1", 0.8), make("2", 0.85)
    assert models.in_service("clothes") is None
    assert models.promote("clothes", "1") == (None, first)
    assert models.promote("clothes") == (first, second), "the newest, if none is named"
    assert models.card("clothes") == second
    assert models.rollback("clothes") == ("2", "1")
    assert models.in_service("clothes") == first
    with pytest.raises(UsageError, match=r"model 'clothes'.*no earlier version was in service"):
        models.rollback("clothes")


def test_a_worse_one_is_refused_unless_somebody_says_why(models: ModelRegistry, make: Make) -> None:
    first, second = make("1", 0.8), make("2", 0.79)
    models.promote("clothes", "1")
    with pytest.raises(
        GateError, match=r"clothes 2 is not promoted: its accuracy on v@0001 is 0.7900.*0.8000.*--force"
    ):
        models.promote("clothes", "2")
    assert models.in_service("clothes") == first
    models.promote("clothes", "2", "half the size")
    assert models.in_service("clothes") == second
    assert [(one.version, one.reason) for one in models.promotions("clothes")] == [("2", "half the size"), ("1", "")]


def test_figures_of_different_sets_are_not_compared(models: ModelRegistry, make: Make) -> None:
    make("1", 0.8)
    make("2", 0.9, evaluation="v@0002")
    models.promote("clothes", "1")
    with pytest.raises(GateError, match=r"it was measured on v@0002, the one in service \(1\) on v@0001"):
        models.promote("clothes", "2")
    worth = {"accuracy": Metric(value=0.85, low=0.8, high=0.9)}
    models.add_evaluation(
        models.card("clothes", "1"), Evaluation(evaluation="v@0002", metrics=worth, created=NOW, run_id="run")
    )
    assert models.promote("clothes", "2")[1].version == "2", "now they are"
    models.add_evaluation(
        models.card("clothes", "1"), Evaluation(evaluation="v@0003", metrics=worth, created=NOW, run_id="run")
    )
    with pytest.raises(GateError, match=r"its accuracy on v@0002 is 0.8500, that in service \(2\) has 0.9000"):
        models.promote("clothes", "1")


def test_weights_that_were_changed_are_not_used(models: ModelRegistry, make: Make, tmp_path: Path) -> None:
    make("1")
    path = tmp_path / "root/models/clothes/1/model.safetensors"
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    with pytest.raises(DataError, match=r"model.safetensors has checksum .* its card says .*: it was changed"):
        models.promote("clothes", "1")
    assert models.in_service("clothes") is None
    path.unlink()
    with pytest.raises(DataError, match=r"model.safetensors is missing"):
        models.promote("clothes", "1")


@pytest.mark.parametrize("name", ["clothes/1/card.json", "clothes/CURRENT"])
def test_what_is_damaged_is_told(models: ModelRegistry, make: Make, tmp_path: Path, name: str) -> None:
    make("1")
    models.promote("clothes", "1")
    (tmp_path / "root/models" / name).write_text("{")
    with pytest.raises(DataError, match=rf"{name} is damaged"):
        models.in_service("clothes")
    if name.endswith("CURRENT"):
        models.promote("clothes", "1", "it was damaged")
        assert models.in_service("clothes")


def test_no_such_model_or_version(models: ModelRegistry, make: Make) -> None:
    make("1")
    with pytest.raises(UsageError, match=r"model 'hats' is not in .*; there are: clothes"):
        models.card("hats")
    with pytest.raises(UsageError, match=r"model 'clothes 7' is not in .*; there are: 1"):
        models.card("clothes", "7")


def test_a_space_of_a_model_is_that_in_service_or_the_pinned_one(
    models: ModelRegistry, make: Make, tmp_path: Path
) -> None:
    cards = [make("1", 0.8), make("2", 0.9)]
    models.promote("clothes", "1")
    settings = Settings(root=str(tmp_path / "root"), extract=Extract(space="clothes.logits"))
    one, two = (models.space(card).id for card in cards)
    assert space_of(settings).id == one
    assert space_of(settings, two).id == two
    assert space_of(settings, "clothes-flip.pool").backbone == "clothes-flip"
    assert space_of(settings, "efficientnet_lite0.pool").id == "efficientnet_lite0.pool@48a432dd"
    with pytest.raises(SpaceMismatch, match=r"no version of model clothes gives it"):
        space_of(settings, "clothes.logits@00000000")
    with pytest.raises(UsageError, match=r"'clothes.fc6': no such backbone and layer; did you mean clothes\."):
        space_of(settings, "clothes.fc6")
    with pytest.raises(UsageError, match=r"'hats.logits'"):
        space_of(settings, "hats.logits")


def test_a_card_is_plain_json(models: ModelRegistry, make: Make, tmp_path: Path) -> None:
    make("1")
    fields = json.loads((tmp_path / "root/models/clothes/1/card.json").read_text())
    assert fields["metrics"]["accuracy"]["value"] == 0.8
    assert fields["licence"] == "Apache-2.0"


def test_promotions_at_once_are_refused_with_the_holder(models: ModelRegistry, make: Make, tmp_path: Path) -> None:
    first, second = make("1", 0.8), make("2", 0.85)
    models.promote("clothes", "1")
    holder = {"run_id": "run-of-another", "job": "promote", "started": "then"}
    with Lease(str(tmp_path / "root"), "promote-clothes", holder):
        for change in (models.promote, models.rollback):
            with pytest.raises(ServiceError, match=r"run run-of-another \(process \d+ on"):
                change("clothes")
    assert models.in_service("clothes") == first
    assert models.promote("clothes") == (first, second)
