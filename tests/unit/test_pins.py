"""Pins: a rollback keeps its build in service, and changes of what is in service take leases."""

import datetime
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.unit.test_manifest import manifest, publish, there
from tests.unit.test_published import A, B, C, current, legacy
from typer.testing import CliRunner

from likeness.cli.app import app
from likeness.core.errors import ServiceError, UsageError
from likeness.index.builds import Builds
from likeness.storage.leases import Lease, held_leases


def lease(root: Path, name: str) -> Lease:
    return Lease(str(root), name, {"run_id": "run-of-another", "job": "nightly", "started": "then"})


def pinned(builds: Builds, space: str = "") -> list[str]:
    return [pin.path for pin in builds.pins(space)]


@pytest.mark.parametrize(
    ("rollback", "path"),
    [
        (lambda builds: builds.rollback(), f"{A}/b2"),
        (lambda builds: builds.rollback(space=A), f"{A}/b2"),
        (lambda builds: builds.rollback(to="b1"), f"{A}/b1"),
        (lambda builds: builds.rollback(to="b3"), f"{A}/b3"),
    ],
)
def test_a_rollback_pins_until_the_next_publication(
    tmp_path: Path, rollback: Callable[[Builds], object], path: str
) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3", space=A)
    assert pinned(builds) == []
    before = datetime.datetime.now(datetime.UTC)
    rollback(builds)
    (pin,) = builds.pins()
    assert pin.path == builds.chain()[0] == path
    assert before <= datetime.datetime.fromisoformat(pin.since) <= datetime.datetime.now(datetime.UTC)
    assert pinned(Builds(str(tmp_path)), "alexnet.fc6") == [path]
    publish(tmp_path, "b4", space=A)
    assert (pinned(builds), builds.chain()[0]) == ([], f"{A}/b4")


def test_a_pin_is_released_without_a_publication(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    publish(tmp_path, "b1", space=B)
    builds.rollback(space=A)
    before = current(tmp_path, A)
    assert [pin.path for pin in builds.release(A)] == [f"{A}/b1"]
    assert current(tmp_path, A) == before | {"pinned": ""}, "neither the chain nor the default space changes"
    assert builds.release(A) == []


def test_a_current_of_the_version_before_is_not_pinned(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    content = current(tmp_path, A)
    del content["pinned"]
    (tmp_path / "builds" / A / "CURRENT").write_text(json.dumps(content))
    assert (builds.chain(A), pinned(builds, A)) == ([f"{A}/b2", f"{A}/b1"], [])
    older = tmp_path / "older"
    assert pinned(legacy(older, f"{B}/b3", f"{A}/b2", f"{A}/b1")) == []
    Builds(str(older)).rollback(space=A)
    assert [pinned(Builds(str(older), spaces=[space])) for space in (A, B)] == [[f"{A}/b1"], []]


def test_the_pin_of_the_default_space_keeps_other_spaces_from_its_place(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", space=A)
    publish(tmp_path, "b2", space=B)
    builds.rollback()  # takes back the trial of the space B
    assert builds.spaces() == [A]
    assert pinned(builds, A) == pinned(builds, B) == pinned(builds, C) == [f"{A}/b1"]
    configured = Builds(str(tmp_path), spaces=[A, B])
    assert (pinned(configured, A), pinned(configured, B)) == ([f"{A}/b1"], []), "a setting says what is served"
    publish(tmp_path, "b3", space=B)  # somebody wants it so
    assert (builds.spaces(), pinned(builds, A), pinned(builds, B)) == ([B], [], [])


def test_an_erasure_replaces_a_pinned_build_and_keeps_the_pin(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    builds.rollback()
    new = manifest(tmp_path, "b3", A)
    builds.write(new)
    builds.publish(new, 5, unpin=False)
    assert pinned(builds) == [f"{A}/b3"]
    builds.keep_only([new])
    assert (there(tmp_path, A), pinned(builds)) == (["b3"], [f"{A}/b3"])


def test_several_builds_that_are_not_published_are_swept_but_for_the_newest(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", "b3", space=A)
    builds.rollback()
    for name in ("b4", "b5", "b6"):
        builds.write(manifest(tmp_path, name, A))
        builds.sweep(A, before=name)
        assert there(tmp_path, A) == ["b1", "b2", name]
    assert builds.sweep_all(A) == (0, 0)
    assert builds.chain(A) == [f"{A}/b2", f"{A}/b1"]
    assert builds.problems(builds.find()) == builds.problems(builds.find("b6")) == []


# -- leases


@pytest.mark.parametrize("change", [Builds.rollback, Builds.release])
@pytest.mark.parametrize("name", ["publish", "upkeep"])
def test_two_changes_at_once_are_refused_with_the_holder(
    tmp_path: Path, change: Callable[[Builds], object], name: str
) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    before = current(tmp_path, A)
    with lease(tmp_path, name), pytest.raises(ServiceError, match=r"run run-of-another \(process \d+ on"):
        change(builds)
    assert current(tmp_path, A) == before
    change(builds)
    assert held_leases(str(tmp_path)) == []


def test_a_rollback_does_not_wait_for_a_night_at_work(tmp_path: Path) -> None:
    """A night may take hours; it sees the pin when it comes to publish."""
    builds = publish(tmp_path, "b1", "b2", space=A)
    with lease(tmp_path, f"index-{A}"), lease(tmp_path, "ingest"):
        assert builds.rollback() == (f"{A}/b2", f"{A}/b1")


def test_a_lease_is_released_where_a_rollback_fails(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", space=A)
    for _ in range(2):
        with pytest.raises(UsageError, match="no earlier build"):
            builds.rollback()
    assert held_leases(str(tmp_path)) == []


def test_rollback_and_release_on_the_command_line(tmp_path: Path) -> None:
    def rollback(*words: str, code: int = 0) -> str:
        result = CliRunner().invoke(app, ["rollback", "--root", str(tmp_path), *words])
        assert result.exit_code == code or isinstance(result.exception, UsageError), result.output
        return result.output or str(result.exception)

    publish(tmp_path, "b1", "b2", space=A)
    assert f"in service: {A}/b1 (was {A}/b2); it is pinned: runs build and do not publish" in rollback()
    assert "--release with --to 'b2'" in rollback("--release", "--to", "b2")
    assert f"released: {A}/b1, pinned since 20" in rollback("--release", "--space", "alexnet.fc6")
    assert rollback("--release") == "no build is pinned\n"
