"""Changed photos find themselves: recall@1 of a build, with and without further looks."""

import subprocess
import sys
from pathlib import Path

import pytest

from likeness.core.errors import UsageError
from likeness.core.settings import Limits, Settings
from likeness.evaluation.robustness import robustness
from likeness.images.perturbations import PERTURBATIONS, perturb
from likeness.images.query_views import QueryView
from likeness.serving.query_terms import PhotoTerm
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service


@pytest.mark.slow
def test_looks_raise_what_is_found_again(published: Settings) -> None:
    lines: list[str] = []
    result = robustness(published, "", 12, [QueryView.TURNED, QueryView.SHARP], lines.append)
    assert result.photos == 12
    assert lines[:-1] == list(PERTURBATIONS)
    by = {one.looks: one for one in result.views}
    assert list(by) == [(), (QueryView.TURNED,), (QueryView.SHARP,), (QueryView.TURNED, QueryView.SHARP)]
    assert [one.pictures for one in by.values()] == [1, 4, 2, 5]
    itself, turned = by[()].recall, by[QueryView.TURNED,].recall
    assert itself["as it is"].value == itself["mirrored"].value == 1
    assert turned["rotated by 180 degrees"].value == 1
    assert itself["rotated by 90 degrees"].value < turned["rotated by 90 degrees"].value == 1
    assert all(one.ms > 0 for one in result.views)


def test_a_turned_photo_is_found_by_the_service(service: Service, sample: Path) -> None:
    photo = sorted(sample.glob("pants/*.jpg"))[0].read_bytes()
    turned = perturb(photo, "rotated by 90 degrees", Limits())
    straight = service.search(PhotoTerm([photo]), SearchParams(1, "all")).results[0]
    viewed = service.search(PhotoTerm([turned], looks=[QueryView.TURNED]), SearchParams(1, "all")).results[0]
    without = service.search(PhotoTerm([turned]), SearchParams(1, "all")).results[0]
    assert viewed.image_id == straight.image_id
    assert viewed.score > without.score + 0.1


def test_the_command_shows_a_line_for_each_change(published: Settings) -> None:
    words = ["robustness", "--root", published.root, "--photos", "3", "--look", "sharp"]
    words += ["--set", f"extract.cache={published.extract.cache}"]
    done = subprocess.run([sys.executable, "-m", "likeness.cli", *words], capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    output = done.stdout
    for change in PERTURBATIONS:
        assert change in output
    assert "sharp" in output
    assert "turned" not in output


def test_an_unknown_build_is_named(published: Settings) -> None:
    with pytest.raises(UsageError, match="20260101-nobody"):
        robustness(published, "20260101-nobody", 3, [], print)
