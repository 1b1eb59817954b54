"""Training as jobs: a head and a space of one's own from the catalogue, promoted, searched, and taken back."""

import contextlib
import io
import json
import threading
import time
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from likeness.catalog.dataset import features
from likeness.cli.app import app
from likeness.core.errors import DataError, GateError, ServiceError, UsageError
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.index.builds import Builds
from likeness.models.backbones import registry
from likeness.models.category_classifier import load_category_classifier
from likeness.models.imagenet_classifier import ImagenetClassifier
from likeness.models.model_registry import ModelRegistry
from likeness.models.spaces import space_of
from likeness.serving.query_terms import PhotoTerm
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service
from likeness.spark import jobs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FEATURES, IMAGES, RUNS
from likeness.training.plan import plan_training
from likeness.training.request import TrainingRequest
from likeness.training.training_run import train_model

from .conftest import SAMPLE, run

PIPES = pytest.mark.filterwarnings(
    "ignore:unclosed file:ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)
"""pyspark leaves the pipe of torchrun to the garbage collector."""
QUICK = ("train.epochs=12", "train.folds=2", "train.batch_size=32")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, model_cache):
    """The sample, indexed; and a category model of it."""
    from likeness.core.settings import load_settings

    root = tmp_path_factory.mktemp("trained")
    flags = {"root": str(root), "source.uri": str(SAMPLE), "date": "2026-01-02"}
    settings = load_settings(None, flags, (f"extract.cache={model_cache}", *QUICK))
    run(settings)
    EvaluationSets(settings.root).freeze(settings, "mine", "", 0.25)
    card = jobs.train_job(settings, TrainingRequest("category"))
    return settings, card


def changed(settings, **train):
    return settings.model_copy(update={"train": settings.train.model_copy(update=train)})


def test_a_head_knows_the_categories(trained):
    settings, card = trained
    assert card.evaluation == "mine@0001"
    assert (card.task, card.layer, card.frozen) == ("category", "logits", True)
    assert card.metrics["accuracy"].value > 0.6, "chance is a tenth"
    assert card.candidates[0].settings == {"hidden": [], "dropout": 0.0}
    page = Path(settings.root, "reports", f"{card.run_id}.html").read_text()
    for heading in ("accuracy", "Confusion matrix", "Worst mistakes", "compared by cross-validation", "shoes"):
        assert heading in page


def test_the_head_in_service_is_the_network_on_photos(trained):
    settings, card = trained
    ModelRegistry(settings.root).promote("category", card.version, "for this test")
    classifier, photo = ImagenetClassifier(settings, "category"), min((SAMPLE / "hat").iterdir()).read_bytes()
    service = Service(settings)
    service.start()
    try:
        answer = service.search(PhotoTerm([photo]), SearchParams())
        label = classifier.labels(photo)[0]
        assert answer.category.predicted == label.name
        assert answer.category.score == pytest.approx(label.probability, abs=2e-3)
        model = load_category_classifier(settings, service.builds.loaded().manifest.space)
        assert model
        assert model.head
    finally:
        service.stop()


def test_the_commands(trained, capsys):
    settings, card = trained
    root = ["--root", settings.root]

    def output_of(*words):
        app(["models", *words, *root], standalone_mode=False)
        return capsys.readouterr().out

    assert card.version in output_of("list")
    listed = json.loads(output_of("list", "--json"))
    assert {"model": "category", "version": card.version}.items() <= listed[0].items()
    details = output_of("show", "category", "--version", card.version)
    for part in ("119 photos, seed 0", "mine@0001", "Apache-2.0", "accuracy", card.weights.sha256[:12]):
        assert part in details
    assert "is in service" in output_of(
        "promote", "category", "--version", card.version, "--force", "--reason", "a test"
    )
    assert json.loads(output_of("show", "category", "--json"))["promotions"][0]["version"] == card.version
    with pytest.raises(UsageError, match=r"--force wants --reason WHY"):
        output_of("promote", "category", "--force")
    assert output_of("freeze", "again", "--share", "0.5").startswith("again@0001: ")
    Path(settings.root, "evaluation", "again", "0001.json").unlink()
    Path(settings.root, "evaluation", "again").rmdir()


def test_suspect_labels_are_in_the_report(trained, tmp_path):
    settings, card = trained
    ModelRegistry(settings.root).promote("category", card.version, "for this test")
    wrong = sorted((SAMPLE / "shoes").iterdir())[3]
    (tmp_path / "hat").mkdir()
    (tmp_path / "hat" / "wrong.jpg").write_bytes(wrong.read_bytes() + b" ")
    facts = run(settings.model_copy(update={"source": settings.source.model_copy(update={"uri": str(tmp_path)})}))[
        "suspect_labels"
    ]
    mine = [row for row in facts["worst"] if row["product_id"].startswith("hat/wrong")]
    assert [(row["category"], row["predicted"]) for row in mine] == [("hat", "shoes")]
    assert facts["suspects"] < 30
    page = Path(settings.root, "reports", "latest.html").read_text()
    assert "Suspect labels" in page
    assert "hat/wrong" in page
    again = run(settings.model_copy(update={"source": settings.source.model_copy(update={"uri": str(tmp_path)})}))[
        "suspect_labels"
    ]
    assert again["worst"] == facts["worst"]


def test_a_space_of_ones_own_is_filled_searched_and_taken_back(trained, capsys):
    settings, _ = trained
    before = Builds(settings.root).find()
    card = jobs.train_job(settings, TrainingRequest("metric"))
    models = ModelRegistry(settings.root)
    models.promote("metric")
    mine = settings.model_copy(update={"extract": settings.extract.model_copy(update={"space": "metric.embedding"})})
    space = space_of(mine)
    assert space.dim == 256
    jobs.backfill(mine, jobs.Scope())
    vectors = TableReader(settings).read(FEATURES, ("vector",), f"space = '{space.id}'")
    assert vectors.num_rows == len(TableReader(settings).read(IMAGES, ("image_id",)))
    lengths = np.linalg.norm(np.array(vectors["vector"].to_pylist()), axis=1)
    assert np.allclose(lengths, 1, atol=1e-4)
    jobs.index_job(mine)
    jobs.publish_job(mine)
    assert Builds(settings.root).find().space == space.id
    service = Service(settings)
    service.start()
    try:
        answer = service.search(PhotoTerm([min((SAMPLE / "shoes").iterdir()).read_bytes()]), SearchParams())
        assert answer.space == space.id
        assert answer.results[0].category == "shoes"
    finally:
        service.stop()
    assert Builds(settings.root).rollback() == (
        Builds(settings.root).chain() and f"{space.id}/{answer.build}",
        before.path,
    )
    assert card.metrics["p10"].value > 0.4


def test_shuffled_labels_are_chance(configure, tmp_path):
    rng, names = np.random.default_rng(0), [child.name for child in sorted(SAMPLE.iterdir()) if child.is_dir()]
    photos = sorted(SAMPLE.glob("*/*.jpg"))
    lines = [f"{n},{photo.relative_to(SAMPLE)},{names[rng.integers(0, 4)]}" for n, photo in enumerate(photos)]
    (tmp_path / "catalogue.csv").write_text("\n".join(["product_id,image,category", *lines]))
    settings = configure(SAMPLE, f"source.catalogue={tmp_path}/catalogue.csv", *QUICK)
    jobs.ingest_job(settings)
    jobs.extract_job(settings)
    EvaluationSets(settings.root).freeze(settings, "mine", "", 0.4)
    card = train_model(plan_training(settings, TrainingRequest("category"), "shuffled"))
    assert card
    assert card.metrics["accuracy"].low < 0.25 < card.metrics["accuracy"].high


def test_what_cannot_be_learned_is_told(trained, tmp_path, configure):
    settings, _ = trained
    models = ModelRegistry(settings.root).versions("category")
    with pytest.raises(DataError, match=r"a class needs train.least = 2 photos to train on: 'gloves' has 0"):
        jobs.train_job(changed(settings, classes=["gloves", "hat"]), TrainingRequest("category"))
    with pytest.raises(DataError, match=r"train.least = 500 photos to train on: 'dress' has \d+, "):
        jobs.train_job(changed(settings, least=500), TrainingRequest("category"))
    with pytest.raises(
        UsageError, match=r"--task 'colours' does not exist; there are: category, attributes, metric, boxes, distil"
    ):
        jobs.train_job(settings, TrainingRequest("colours"))
    with pytest.raises(UsageError, match=r"--task distil needs --teacher"):
        jobs.train_job(settings, TrainingRequest("distil"))
    with pytest.raises(DataError, match=r"the loss is .*; no model is written"):
        jobs.train_job(changed(settings, rate=1e30, folds=0, clip=1e30), TrainingRequest("category"))
    other = settings.model_copy(update={"extract": settings.extract.model_copy(update={"space": "hog.blocks"})})
    with pytest.raises(
        UsageError, match=r"no listed photo has a vector of hog.blocks@.*; run .*backfill --space hog.blocks"
    ):
        jobs.train_job(other, TrainingRequest("category"))
    assert ModelRegistry(settings.root).versions("category") == models, "nothing was written"
    with pytest.raises(UsageError, match=r"has no listings to learn from"):
        jobs.train_job(configure(tmp_path), TrainingRequest("category"))


def test_a_worse_model_is_not_promoted(trained):
    settings, card = trained
    models = ModelRegistry(settings.root)
    models.promote("category", card.version, "for this test")
    worse = jobs.train_job(changed(settings, epochs=1, folds=0, rate=1e-9), TrainingRequest("category"))
    with pytest.raises(GateError, match=rf"category {worse.version} is not promoted: its accuracy on mine@0001"):
        models.promote("category")
    assert models.in_service("category") == card


def test_features_for_researchers(trained):
    settings, _ = trained
    dataset = features(settings.root)
    assert dataset.space == space_of(settings).id
    assert dataset.vectors.shape == (len(dataset.image_ids), 1280)
    assert len(dataset.image_ids) >= 160
    rows = TableReader(settings).read(FEATURES, ("image_id", "vector"), f"space = '{dataset.space}'").to_pylist()
    stored = {row["image_id"]: row["vector"] for row in rows}
    assert dataset.arrow().to_pylist()[7]["vector"] == stored[dataset.image_ids[7]]
    vector, number = dataset.torch()[7]
    assert vector.tolist() == stored[dataset.image_ids[7]]
    assert sorted(set(dataset.categories))[number] == dataset.categories[7]
    assert features(settings.root, snapshot=dataset.snapshots["features"], photos=5).image_ids == dataset.image_ids[:5]
    with pytest.raises(UsageError, match=r"has no vector of hog.blocks@.*; run ./spark-submit.sh backfill"):
        features(settings.root, "hog.blocks")


@pytest.mark.slow
def test_how_many_photos_it_takes(trained):
    settings, _ = trained
    how = {"epochs": 3, "folds": 0, "hidden": [], "dropout": 0.0, "rate": 3e-3, "batch_size": 8}
    few_classes = changed(settings, name="curve", classes=["dress", "longsleeve", "shirt", "t-shirt"], **how)
    card = jobs.train_job(few_classes, TrainingRequest("category", curve=(8, 0), against_scratch=True))
    curve = ModelRegistry(settings.root).report(card).curve
    assert [row.photos for row in curve] == [8, card.photos]
    few, every = ({way.name: way for way in row.ways} for row in curve)
    assert every["with transfer"].value > few["with transfer"].value
    assert every["with transfer"].value > every["from scratch"].value + 0.2
    assert every["from scratch"].seconds > 5 * every["with transfer"].seconds
    page = Path(settings.root, "reports", f"{card.run_id}.html").read_text()
    assert "Learning curve" in page
    assert "from scratch" in page


@pytest.mark.slow
def test_a_student_learns_what_a_teacher_knows(trained):
    settings, _ = trained
    small = changed(settings, epochs=2, folds=0, distort=1, name="pupil", batch_size=40, rate=1e-4)
    small = small.model_copy(update={"extract": small.extract.model_copy(update={"space": "alexnet.fc6"})})
    card = jobs.train_job(small, TrainingRequest("distil", "efficientnet_lite0.pool"))
    assert (card.layer, card.parent.partition("@")[0], card.space) == ("fc6", "efficientnet_lite0.pool", "alexnet.fc6")
    report = ModelRegistry(settings.root).report(card)
    assert report.epochs[-1].loss < report.epochs[0].loss
    assert report.baseline["p10"].value > 0
    space = space_of(settings, "pupil.fc6")
    assert (space.dim, space.name) == (4096, "pupil.fc6")
    assert "pupil" not in registry()


def test_the_last_blocks_are_trained_as_well(trained):
    settings, _ = trained
    how = changed(settings, unfreeze="stage7", distort=1, epochs=3, folds=1, name="tuned")
    card = jobs.train_job(how, TrainingRequest("category"))
    assert not card.frozen
    assert card.metrics["accuracy"].value > 0.3, "chance is a tenth"
    photo = min((SAMPLE / "shoes").iterdir()).read_bytes()
    assert ImagenetClassifier(settings, "tuned").labels(photo)[0].name in card.classes
    assert space_of(settings, "tuned.pool").id != space_of(settings, "efficientnet_lite0.pool").id


@pytest.mark.slow
def test_boxes_are_learned(configure, tmp_path):
    """Photos pasted on backgrounds: where they are is known."""
    rng, lines = np.random.default_rng(1), list[str]()
    (tmp_path / "pasted").mkdir()
    for number, path in enumerate(sorted(SAMPLE.glob("*/*.jpg"))):
        back = Image.fromarray(rng.integers(90, 130, (8, 8, 3), np.uint8)).resize((224, 224), Image.Resampling.NEAREST)
        wide, high = rng.integers(70, 150, 2)
        left, top = rng.integers(0, 224 - wide), rng.integers(0, 224 - high)
        back.paste(Image.open(io.BytesIO(path.read_bytes())).convert("RGB").resize((wide, high)), (left, top))
        back.save(tmp_path / "pasted" / f"{number}.jpg", quality=95)
        box = " ".join(f"{value / 224:.4f}" for value in (left, top, left + wide, top + high))
        middle = f"{(left + wide / 2) / 224:.4f} {(top + high / 2) / 224:.4f}"
        lines.append(f"{number},{number}.jpg,thing,{box},{middle}")
    (tmp_path / "catalogue.csv").write_text("\n".join(["product_id,image,category,box,landmarks", *lines]))
    settings = configure(
        tmp_path / "pasted",
        f"source.catalogue={tmp_path}/catalogue.csv",
        "extract.space=efficientnet_lite0.stage7",
        "train.epochs=30",
        "train.folds=0",
        "train.hidden=[256]",
        "train.dropout=0.1",
        "train.batch_size=16",
    )
    jobs.ingest_job(settings)
    jobs.extract_job(settings)
    card = jobs.train_job(settings, TrainingRequest("boxes"))
    always_the_middle = 0.3
    assert card.metrics["iou"].value > always_the_middle + 0.1
    assert card.metrics["landmarks_away"].value < 0.2
    assert space_of(settings, "boxes.box").dim == 6


@pytest.mark.slow
@pytest.mark.kill
@PIPES
def test_two_processes_under_spark_learn_what_one_learns(trained):
    settings, _ = trained
    how = {"folds": 0, "epochs": 8, "dropout": 0.0, "hidden": [64], "distort": 0}
    cards = [
        jobs.train_job(changed(settings, processes=n, name=f"by{n}", **how), TrainingRequest("category"))
        for n in (1, 2)
    ]
    one, two = (card.metrics["accuracy"].value for card in cards)
    assert abs(one - two) <= 0.005
    with pytest.raises(DataError, match=r"the loss is .*; no model is written"):
        jobs.train_job(
            changed(settings, rate=1e30, clip=1e30, processes=2, name="by2", **how), TrainingRequest("category")
        )


@pytest.mark.slow
@pytest.mark.kill
@PIPES
def test_a_killed_process_is_told_and_the_next_run_goes_on(trained):
    settings, _ = trained
    slow = changed(settings, processes=2, folds=0, epochs=400, checkpoint_s=0.01, name="killed", dropout=0.0)

    def state() -> list[Path]:
        return list(Path(settings.root, "training").glob("killed-*.safetensors"))

    def workers() -> list[psutil.Process]:
        processes = []
        for one in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                words = one.cmdline()
                if words[-1].endswith("/train.py") and not any("torch" in word for word in words[:-1]):
                    processes.append(one)
        return processes

    def kill() -> None:
        while not state():
            time.sleep(0.02)
        workers()[-1].kill()

    killer = threading.Thread(target=kill)
    killer.start()
    with pytest.raises(ServiceError, match=r"one of 2 training processes has died .*Run the same command again"):
        jobs.train_job(slow, TrainingRequest("category"))
    killer.join()
    assert state()
    assert ModelRegistry(settings.root).versions("killed") == []
    card = jobs.train_job(slow, TrainingRequest("category"))
    assert len(ModelRegistry(settings.root).report(card).epochs) == 400
    assert not state()


@pytest.mark.slow
def test_a_model_is_measured_on_photos_that_came_later(trained, tmp_path, capsys):
    settings, card = trained
    models = ModelRegistry(settings.root)
    near = jobs.train_job(changed(settings, folds=0, name="near"), TrainingRequest("metric"))
    photos = sorted(SAMPLE.glob("*/*.jpg"))[::3]
    for number, photo in enumerate(photos):
        (tmp_path / f"{number}.jpg").write_bytes(photo.read_bytes() + b"  ")
    lines = [f"later-{number},{number}.jpg,{photo.parent.name},later" for number, photo in enumerate(photos)]
    (tmp_path / "catalogue.csv").write_text("\n".join(["product_id,image,category,batch", *lines]))
    jobs.ingest_job(settings.model_copy(update={"source": settings.source.model_copy(update={"uri": str(tmp_path)})}))
    jobs.extract_job(settings)
    sets = EvaluationSets(settings.root)
    sets.freeze(settings, "later", "batch=later", 0.1)
    sets.freeze(settings, "known", "", 0.5)

    with pytest.raises(DataError, match=r"category .* was trained on \d+ of the \d+ photos of evaluation set known@"):
        jobs.evaluate_job(settings, "category", card.version, "known")
    with pytest.raises(UsageError, match=r"'nobody' is not in"):
        jobs.evaluate_job(settings, "nobody", "", "later")
    evaluation = jobs.evaluate_job(settings, "category", card.version, "later")
    assert evaluation.metrics["accuracy"].value > 0.8, "they look like those that were learned from"
    assert list(models.metrics(card)) == ["mine@0001", "later@0001"]
    assert "later@0001" in capsys.readouterr().err
    vectors = jobs.evaluate_job(settings, "near", near.version, "later")
    assert vectors.metrics["p1"].value > 0.8

    models.promote("category", card.version, "for this test")
    other = jobs.train_job(
        changed(settings, evaluation="later", epochs=1, folds=0, rate=1e-9), TrainingRequest("category")
    )
    with pytest.raises(GateError, match=r"its accuracy on later@0001 is 0\.\d+, that in service"):
        jobs.promote_job(settings, "category", other.version, "")
    jobs.promote_job(settings, "category", other.version, "it is newer")
    assert models.in_service("category") == other
    rows = TableReader(settings).read(RUNS, ("started", "facts"), "job = 'promote'").sort_by("started").to_pylist()
    assert json.loads(rows[-1]["facts"])["promote"]["before"] == card.version
    models.promote("category", card.version, "for other tests")


def test_attributes_are_learned_from_distorted_photos(configure, tmp_path):
    lines = []
    for number, photo in enumerate(sorted(SAMPLE.glob("*/*.jpg"))):
        kind = photo.parent.name
        worn = {"shoes": "feet", "hat": "head"}.get(kind, "body")
        lines.append(f"{number},{photo.relative_to(SAMPLE)},thing,{kind},{worn}")
    (tmp_path / "catalogue.csv").write_text("\n".join(["product_id,image,category,kind,worn", *lines]))
    settings = configure(
        SAMPLE, f"source.catalogue={tmp_path}/catalogue.csv", *QUICK, "train.distort=1", "train.folds=1"
    )
    jobs.ingest_job(settings)
    classes = ["kind=dress", "kind=shoes", "worn=body", "worn=feet", "worn=head"]
    card = jobs.train_job(changed(settings, classes=classes, hidden=[64]), TrainingRequest("attributes"))
    assert list(card.classes) == classes
    assert card.metrics["map"].value > 0.6
    assert space_of(settings, "attributes.logits").dim == 5
    with pytest.raises(DataError, match=r"train.least = 2 photos to train on: 'worn=hands' has 0"):
        jobs.train_job(changed(settings, classes=["worn=hands", "worn=feet"]), TrainingRequest("attributes"))
