"""Classes of photos, by the network's own names, and what a labelled folder says of it."""

import json
import math
import shutil
from pathlib import Path

import numpy as np
import pytest

from likeness.cli.app import app
from likeness.core.errors import UsageError
from likeness.core.settings import Settings
from likeness.models.imagenet_classifier import ImagenetClassifier, top_labels


@pytest.fixture(scope="module")
def classifier() -> ImagenetClassifier:
    return ImagenetClassifier(Settings(), "efficientnet_lite0")


@pytest.fixture(scope="module")
def shirts(sample: Path) -> list[Path]:
    return sorted((sample / "t-shirt").glob("*.jpg"))[:6]


def test_the_best_classes() -> None:
    labels = top_labels(np.array([1.0, 3.0, 2.0], np.float32), ["a", "b", "c"], 2)
    assert [one.name for one in labels] == ["b", "c"]
    assert labels[0].probability == pytest.approx(math.exp(3) / (math.exp(1) + math.exp(2) + math.exp(3)))
    assert [one.name for one in top_labels(np.array([1e4, 1e4], np.float32), ["a", "b"], 5)] == ["a", "b"]


def test_photos_of_shirts_are_shirts(classifier: ImagenetClassifier, shirts: list[Path]) -> None:
    predicted = [[one.name for one in classifier.labels(path.read_bytes())] for path in shirts]
    assert sum("jersey" in names for names in predicted) >= 5


def test_a_labelled_folder(classifier: ImagenetClassifier, shirts: list[Path], tmp_path: Path) -> None:
    """Whose first labels are known, photo by photo."""
    names = {path: [one.name for one in classifier.labels(path.read_bytes())] for path in shirts}
    for path, labels in names.items():
        for folder in (labels[0], str(classifier.names.index(labels[2])), labels[1].upper()):
            (tmp_path / folder).mkdir(exist_ok=True)
            shutil.copy(path, tmp_path / folder)
    (tmp_path / "0").mkdir(exist_ok=True)  # a tench
    shutil.copy(shirts[0], tmp_path / "0")
    (tmp_path / "0" / "broken.jpg").write_bytes(b"\xff\xd8\xff no photo")
    result = classifier.evaluate(tmp_path)
    photos = sum(1 for _ in tmp_path.glob("*/*.jpg")) - 1
    firsts = sum((tmp_path / labels[0] / path.name).exists() for path, labels in names.items())
    assert (result.photos, result.top1.value, result.top5.value) == (photos, firsts / photos, (photos - 1) / photos)
    assert [Path(path).name for path in result.failures] == ["broken.jpg"]
    assert 0 <= result.top1.low < result.top1.value < result.top1.high <= 1


def test_folders_by_wordnet_id_are_numbered_as_imagenet_numbers_them(
    classifier: ImagenetClassifier, tmp_path: Path
) -> None:
    for number in range(1000):
        (tmp_path / f"n{10_000_000 + 7 * number}").mkdir()
    (tmp_path / "n10000007" / "x.jpg").write_bytes(b"")
    assert [number for _, number in classifier._photos(tmp_path)] == [1]


def test_a_folder_that_is_not_labelled(classifier: ImagenetClassifier, sample: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"'dress' is no class of efficientnet_lite0; name each folder as a class"):
        classifier.evaluate(sample)
    with pytest.raises(UsageError, match="it has no folders"):
        classifier.evaluate(tmp_path)
    with pytest.raises(UsageError, match="no such folder"):
        classifier.evaluate(tmp_path / "nowhere")


@pytest.mark.parametrize("backbone", ["hog", "nothing"])
def test_a_network_without_classes(backbone: str) -> None:
    with pytest.raises(UsageError, match=f"backbone '{backbone}': no such network with classes; there are: eff"):
        ImagenetClassifier(Settings(), backbone)


def test_the_commands(shirts: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    app(["classify", str(shirts[0]), "--json"], standalone_mode=False)
    output = json.loads(capsys.readouterr().out)
    assert output["space"].startswith("efficientnet_lite0.logits@")
    assert len(output["labels"]) == 5
    assert output["labels"][0]["probability"] == max(one["probability"] for one in output["labels"])
    (tmp_path / "jersey").mkdir()
    shutil.copy(shirts[0], tmp_path / "jersey")
    app(["evaluate", "--labels", str(tmp_path), "--json"], standalone_mode=False)
    output = json.loads(capsys.readouterr().out)
    assert (output["photos"], output["top1"]["value"], output["published"]["top1"]) == (1, 1.0, 75.1)
    app(["evaluate", "--labels", str(tmp_path)], standalone_mode=False)
    assert "0.7510" in capsys.readouterr().out
    with pytest.raises(UsageError, match="name one of --judgements FILE and --labels FOLDER"):
        app(["evaluate"], standalone_mode=False)
    with pytest.raises(UsageError, match="name a photo"):
        app(["classify", "/nowhere.jpg"], standalone_mode=False)
    with pytest.raises(UsageError, match="cannot be classified: not_an_image"):
        app(["classify", __file__], standalone_mode=False)
