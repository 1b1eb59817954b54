"""Nights that were missed, and photos that come late: what docs/operating.md says of them."""

import csv
import datetime
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from likeness.catalog.hidden_products import HiddenProducts
from likeness.cli import status as command
from likeness.index.builds import Builds
from likeness.spark import jobs
from likeness.spark.run import Run
from likeness.storage.leases import Lease
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, SOURCES

from .conftest import SAMPLE, last_run, run

pytestmark = pytest.mark.slow

FIRST = datetime.date(2026, 1, 2)
LONG_AGO = 1_500_000_000


class Shop:
    """A folder of photos with a catalogue that grows by the day."""

    def __init__(self, folder: Path) -> None:
        self.folder, self._rows = folder, dict[str, str]()
        self._left = sorted((SAMPLE / "hat").iterdir())
        folder.mkdir()

    def lists(self, *products: str) -> None:
        self._rows |= {product: f"{product}.jpg" for product in products}
        with (self.folder / "catalogue.csv").open("w", newline="") as file:
            rows = [(product, image, "hat") for product, image in self._rows.items()]
            csv.writer(file).writerows([("product_id", "image", "category"), *rows])

    def gets(self, *products: str, changed: float | None = None) -> None:
        """Photos arrive, with the time of their last change if it is not now."""
        for product in products:
            path = self.folder / f"{product}.jpg"
            shutil.copyfile(self._left.pop(), path)
            if changed:
                os.utime(path, (changed, changed))


def dates(settings) -> dict[str, datetime.date]:
    """product_id to the ingest date of its photo."""
    of_image = {
        row["image_id"]: row["ingest_date"]
        for row in TableReader(settings).read(IMAGES, ("image_id", "ingest_date")).to_pylist()
    }
    rows = TableReader(settings).read(LISTINGS, ("product_id", "image_id", "active")).to_pylist()
    return {row["product_id"]: of_image[row["image_id"]] for row in rows if row["active"]}


def status(settings, capsys) -> tuple[dict[str, Any], str]:
    """What `likeness status` says to a program, and to a person."""
    capsys.readouterr()
    command.status(settings.root, as_json=True)
    report = json.loads(capsys.readouterr().out)
    command.status(settings.root)
    return report, capsys.readouterr().out


def test_a_night_takes_in_all_that_came_since_the_last(configure, tmp_path, capsys):
    shop = Shop(tmp_path / "shop")
    settings = configure(shop.folder, "gates.max_failure_rate=0.5")
    night = lambda day: settings.model_copy(update={"date": FIRST.replace(day=day)})  # noqa: E731
    shop.lists("a", "b", "awaited")
    shop.gets("a", "b")
    jobs.ingest_job(night(2))
    (row,) = TableReader(settings).read(FAILURES).to_pylist()
    assert (row["stage"], row["reason"]) == ("list", "missing_file")
    assert "awaited" in row["detail"]
    report, text = status(settings, capsys)
    assert (report["failures"], report["in_service"]) == ({"list": 1}, None)
    assert "failures in the ledger: list 1;" in text
    assert "nothing is published" in text

    # three nights without a run; files are older than the last one, or younger, or of a product that waited
    shop.gets("awaited", "c", changed=LONG_AGO)
    shop.gets("d", "e")
    shop.gets("unlisted")
    shop.lists("c", "d", "e")
    facts = run(night(6))
    assert (facts["ingest"]["read"], facts["ingest"]["existing"], facts["ingest"]["unlisted"]) == (4, 2, 1)
    assert (facts["extract"]["pending"], facts["load"]["vectors"]) == (6, 6)  # of the first night nothing was extracted
    first, late = FIRST, FIRST.replace(day=6)
    assert dates(settings) == {"a": first, "b": first} | dict.fromkeys(("awaited", "c", "d", "e"), late)
    assert TableReader(settings).read(FAILURES).num_rows == 0
    assert Builds(settings.root).find().products == 6

    # a date that is given is the ingest date, whatever ran before; what is there already stays what it is
    shop.lists("f", "unlisted")
    shop.gets("f")
    jobs.ingest_job(night(4))
    assert last_run(settings)["facts"]["ingest"]["read"] == 2
    assert dates(settings) == {"a": first, "b": first, "f": FIRST.replace(day=4), "unlisted": FIRST.replace(day=4)} | (
        dict.fromkeys(("awaited", "c", "d", "e"), late)
    )
    HiddenProducts(settings.root).hide(["a", "b"])
    with Lease(settings.root, "load-x", {"run_id": "now", "job": "load", "started": "2026-01-04T00:00:00+00:00"}):
        report, text = status(settings, capsys)
    assert report["in_service"]["since"] == {"vectors": 0, "listings": 2}
    assert [row["missing"] for row in report["matrix"]] == [0, 2, 0]
    assert [(one["name"], one["run_id"], one["state"]) for one in report["leases"]] == [("load-x", "now", "alive")]
    assert "since then: 0 new vectors, 2 changed listings, 2 photos to extract;" in text
    assert "at work: load-x, run now (process" in text
    assert "hidden products: 2;" in text
    run(night(4), jobs.extract_job)
    assert status(settings, capsys)[0]["in_service"]["since"] == {"vectors": 2, "listings": 2}
    facts = run(night(9))  # nothing new: no ingest date comes of it
    assert (facts["ingest"]["read"], facts["extract"]["pending"], facts["index"]["vectors"]) == (0, 0, 8)
    assert status(settings, capsys)[0]["in_service"]["since"] == {"vectors": 0, "listings": 0}
    assert sorted(set(dates(settings).values())) == [first, FIRST.replace(day=4), late]
    features = TableReader(settings).read(FEATURES, ("image_id", "ingest_date")).to_pylist()
    assert sorted(row["ingest_date"] for row in features) == sorted(dates(settings).values())


def test_a_run_that_is_completed_on_another_day_divides_its_photos(configure, tmp_path, monkeypatch):
    shop = Shop(tmp_path / "shop")
    settings = configure(shop.folder, "ingest.chunk_images=2")
    names = ["a", "b", "c", "d", "e"]
    shop.lists(*names)
    shop.gets(*names)
    commits = iter([None, None, None])  # of the photos, the places, and before the next photos

    def stop(self: Run) -> None:
        if next(commits, self) is self:
            raise InterruptedError("the power went")

    with monkeypatch.context() as patched:
        patched.setattr(Run, "check_leases", stop)
        with pytest.raises(InterruptedError):
            jobs.ingest_job(settings)
    sources = TableReader(settings).read(SOURCES).num_rows
    jobs.ingest_job(settings.model_copy(update={"date": FIRST.replace(day=3)}))
    assert (
        last_run(settings)["facts"]["ingest"]["existing"] == sources + last_run(settings)["facts"]["ingest"]["reused"]
    )
    days = sorted(dates(settings).values())
    assert days == [FIRST] * 4 + [FIRST.replace(day=3)]
