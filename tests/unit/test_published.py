"""Published builds by space: one CURRENT each, and the one CURRENT for all spaces of the version before."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.unit.test_manifest import manifest, publish, there

from likeness.core.errors import DataError, UsageError
from likeness.core.settings import load_settings
from likeness.index.builds import Builds

A, B, C = "alexnet.fc6@1f3a9c02", "efficientnet_lite0.pool@00000000", "vgg16.fc6@22222222"


def current(root: Path, space: str) -> dict[str, object]:
    content: dict[str, object] = json.loads((root / "builds" / space / "CURRENT").read_text())
    return content


def legacy(root: Path, *paths: str) -> Builds:
    """A root of the version before: complete builds, and one CURRENT that names them, newest first."""
    builds = Builds(str(root))
    for path in paths:
        space, _, build = path.partition("/")
        builds.write(manifest(root, build, space))
    (root / "builds" / "CURRENT").write_text(json.dumps({"current": paths[0], "previous": paths[1:]}))
    return builds


def test_publishing_one_space_leaves_the_others_alone(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    before = current(tmp_path, A)
    publish(tmp_path, "b3", space=B)
    assert current(tmp_path, A) == before
    assert builds.chain(A) == [f"{A}/b2", f"{A}/b1"]
    assert builds.chain(B) == builds.chain() == [f"{B}/b3"]
    assert builds.spaces() == [B]  # the one published last
    publish(tmp_path, "b4", space=A)
    assert builds.spaces() == [A]
    assert builds.find().path == f"{A}/b4"
    assert builds.find(space=B).path == f"{B}/b3"
    assert builds.current(C) is None


def test_a_space_is_named_with_or_without_its_hash(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", space=A)
    publish(tmp_path, "b2", space=B)
    assert builds.chain("alexnet.fc6") == builds.chain(A) == [f"{A}/b1"]
    publish(tmp_path, "b3", space="alexnet.fc6@ffffffff")
    assert builds.chain("alexnet.fc6") == ["alexnet.fc6@ffffffff/b3"]  # the weights published last
    with pytest.raises(UsageError, match=r"nothing of space vgg16.fc6 is published yet"):
        builds.find(space="vgg16.fc6")
    assert builds.find("b1", "alexnet.fc6@1f3a9c02").path == f"{A}/b1"
    with pytest.raises(UsageError, match="build 'b2' is not in"):
        builds.find("b2", "alexnet.fc6")


@pytest.mark.parametrize(
    ("configured", "spaces"),
    [((), [C]), ((A,), [A]), (("alexnet.fc6", B), [A, B]), ((B, "resnet50.avgpool", A), [B, A]), (("x.y",), [])],
)
def test_the_setting_says_which_spaces_are_in_service(
    tmp_path: Path, configured: Sequence[str], spaces: Sequence[str]
) -> None:
    for space in (A, B, C):
        publish(tmp_path, "b1", space=space)
    builds = Builds.open(load_settings(None, {"root": str(tmp_path), "spaces": list(configured)}))
    assert builds.spaces() == spaces
    assert builds.chain() == [f"{space}/b1" for space in spaces[:1]]


def test_spaces_published_at_the_same_time_are_in_the_order_of_their_names(tmp_path: Path) -> None:
    for space in (C, A):
        publish(tmp_path, "b1", space=space)
        path = tmp_path / "builds" / space / "CURRENT"
        path.write_text(json.dumps(current(tmp_path, space) | {"published": ""}))
    assert Builds(str(tmp_path)).spaces() == [A]


# -- rollback


def test_a_rollback_of_one_space_leaves_the_default_and_the_others_alone(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    publish(tmp_path, "b1", "b2", space=B)
    assert builds.rollback(space="alexnet.fc6") == (f"{A}/b2", f"{A}/b1")
    assert (builds.chain(), builds.chain(A)) == ([f"{B}/b2", f"{B}/b1"], [f"{A}/b1"])
    with pytest.raises(UsageError, match=r"no earlier build of space alexnet.fc6 to roll back to"):
        builds.rollback(space="alexnet.fc6")
    with pytest.raises(UsageError, match=r"no earlier build of space vgg16.fc6"):
        builds.rollback(space="vgg16.fc6")


def test_a_rollback_to_a_build_of_another_space_makes_that_space_the_default(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    publish(tmp_path, "b3", space=B)
    assert builds.rollback(to=f"{A}/b1") == (f"{B}/b3", f"{A}/b1")
    assert builds.spaces() == [A]
    assert builds.chain(B) == [f"{B}/b3"]
    assert builds.rollback(to="b3") == (f"{A}/b1", f"{B}/b3")


def test_a_rollback_of_the_only_build_of_a_space_goes_to_the_space_before(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", "b2", space=A)
    publish(tmp_path, "b3", space=B)
    assert builds.rollback() == (f"{B}/b3", f"{A}/b2")
    assert builds.chain(B) == []
    assert builds.of(B) == [f"{B}/b3"]
    assert builds.rollback() == (f"{A}/b2", f"{A}/b1")
    with pytest.raises(UsageError, match="no earlier build to roll back to"):
        builds.rollback()
    configured = Builds(str(tmp_path), spaces=[A, B])
    publish(tmp_path, "b4", space=B)
    with pytest.raises(UsageError, match="no earlier build"):
        configured.rollback()  # which space is the default is a setting


def test_a_damaged_current_is_of_one_space(tmp_path: Path) -> None:
    builds = publish(tmp_path, "b1", space=A)
    publish(tmp_path, "b1", space=B)
    (tmp_path / "builds" / A / "CURRENT").write_text("{")
    assert builds.chain(B) == [f"{B}/b1"]
    for call in (builds.chain, builds.spaces, lambda: builds.chain(A), lambda: builds.sweep_all(A)):
        with pytest.raises(DataError, match=rf"{A}/CURRENT is damaged.*rollback --to BUILD"):
            call()
    assert builds.rollback(to=f"{A}/b1") == (None, f"{A}/b1")
    assert builds.chain() == [f"{A}/b1"]


# -- deletion


def test_the_builds_of_all_spaces_but_those_named_are_deleted(tmp_path: Path) -> None:
    for space in (A, B, C):
        builds = publish(tmp_path, "b1", "b2", space=space)
    kept = [builds.find(space=B), builds.find(space=A)]
    assert builds.keep_only(kept) == 4
    assert list(builds.all()) == [f"{A}/b2", f"{B}/b2"]
    assert [builds.chain(space) for space in (A, B, C)] == [[f"{A}/b2"], [f"{B}/b2"], []]
    assert builds.spaces() == [B]
    assert builds.keep_only([]) == 2
    assert list(builds.all()) == builds.spaces() == []


# -- roots of the version before


def test_the_chain_of_an_older_root_is_read_by_space(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2", f"{A}/b1")
    assert builds.spaces() == [B]
    assert [builds.chain(space) for space in ("", A, B, C)] == [[f"{B}/b3"], [f"{A}/b2", f"{A}/b1"], [f"{B}/b3"], []]
    assert builds.published.files() == ["CURRENT"]
    assert sorted(path.name for path in (tmp_path / "builds").iterdir()) == ["CURRENT", A, B]


def test_the_first_publication_splits_the_chain_of_an_older_root(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2", f"{A}/b1")
    publish(tmp_path, "b4", space=A)
    assert sorted(path.name for path in (tmp_path / "builds").iterdir()) == [A, B]
    assert [builds.chain(space) for space in ("", A, B)] == [
        [f"{A}/b4", f"{A}/b2", f"{A}/b1"],
        [f"{A}/b4", f"{A}/b2", f"{A}/b1"],
        [f"{B}/b3"],
    ]
    assert sorted(builds.published.files()) == [f"{A}/CURRENT", f"{B}/CURRENT"]
    assert there(tmp_path, A) == ["b1", "b2", "b4"]


def test_an_older_root_keeps_its_default_space_when_it_is_split(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2", f"{A}/b1", f"{C}/b0")
    assert builds.rollback(space=A) == (f"{A}/b2", f"{A}/b1")
    assert builds.spaces() == [B]
    assert list(builds.published.chains()) == [B, A, C]


def test_an_older_root_is_rolled_back_to_the_space_before(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2")
    assert builds.rollback() == (f"{B}/b3", f"{A}/b2")
    assert (builds.spaces(), builds.chain(B)) == ([A], [])


def test_a_kill_while_an_older_root_is_split_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old CURRENT is deleted last, and counts until then."""
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2")
    new = manifest(tmp_path, "b4", A)
    builds.write(new)

    def killed(uri: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(builds.published._files, "delete", killed)
        with pytest.raises(KeyboardInterrupt):
            builds.publish(new, 5)
    assert (builds.spaces(), builds.chain(A)) == ([B], [f"{A}/b2"])
    builds.publish(new, 5)
    assert (builds.spaces(), builds.chain(A)) == ([A], [f"{A}/b4", f"{A}/b2"])


def test_a_damaged_current_of_an_older_root_is_replaced_by_rollback_to(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2")
    (tmp_path / "builds" / "CURRENT").write_text("{")
    with pytest.raises(DataError, match=r"builds/CURRENT is damaged"):
        builds.chain(A)
    assert builds.rollback(to=f"{A}/b2") == (None, f"{A}/b2")
    assert builds.chain() == [f"{A}/b2"]


def test_the_builds_of_an_older_root_are_deleted_with_its_current(tmp_path: Path) -> None:
    builds = legacy(tmp_path, f"{B}/b3", f"{A}/b2")
    assert builds.keep_only([builds.find(space=A)]) == 1
    assert (builds.spaces(), builds.chain(B)) == ([A], [])
    assert not (tmp_path / "builds" / "CURRENT").exists()
