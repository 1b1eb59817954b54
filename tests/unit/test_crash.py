"""A build and its publication, killed at every change of the file system: readers always see a whole build."""

import hashlib
import multiprocessing
import os
import signal
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.hits import hits_of

from likeness.index import distance, tombstones
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.index.shard import LoadedShard

SPACE, DIM = "alexnet.fc6@1f3a9c02", 8
FAILED = 1  # a process that raises; one that grows makes many more changes


def first(root: Path) -> Manifest:
    """A published build of two shards."""
    return _published(root, "b1", [_shard(root, "b1", number, 30) for number in (0, 1)])


def grow(root: Path, name: str) -> None:
    """A night: one shard of the build before without two rows, one new shard, and the build before deleted."""
    builds = Builds(str(root))
    before = builds.find()
    kept = before.shards[0]
    ids = [int(_keys("b1", 0, 30)[row][:16], 16) >> 1 for row in (3, 7)]
    tombstone_file = builds.add(SPACE, f"{name}/removed.arrow", tombstones.dump({0: np.array(ids)}))
    kept = kept.model_copy(update={"tombstoned": 2, "categories": {"hat": 28}})
    _published(root, name, [kept, _shard(root, name, 2, 5, delta=True)], tombstone_file)


def _published(root: Path, name: str, shards: list, tombstone_file=None) -> Manifest:  # type: ignore[no-untyped-def,type-arg]
    manifest = Manifest(
        build=name,
        run_id=name,
        created="",
        space=SPACE,
        dim=DIM,
        kind="flat",
        metric="cosine",
        snapshots={},
        index_settings={},
        images=1,
        products=1,
        vectors=sum(shard.live for shard in shards),
        shards=shards,
        tombstones=tombstone_file,
    )
    builds = Builds(str(root))
    builds.write(manifest)
    builds.publish(manifest, 1)
    return manifest


def _shard(root: Path, build: str, number: int, rows: int, delta: bool = False):  # type: ignore[no-untyped-def]
    import pyarrow as pa

    from likeness.core.settings import Index
    from likeness.index.build import BuildSpec, build_shard
    from likeness.index.shard_plan import PlannedShard

    keys = _keys(build, number, rows)
    listings = [[{"category": "hat", "uri": key, "products": [key]}] for key in keys]
    vectors = [row.tobytes() for row in _vectors(number, rows)]
    table = pa.table({"image_id": keys, "shown": listings, "vector": vectors})
    spec = BuildSpec(f"file://{root}/builds/{SPACE}", build, SPACE, DIM, Index(kind="flat"), delta=delta)
    return build_shard(PlannedShard(number), table.to_batches(), spec)


def _keys(build: str, number: int, rows: int) -> list[str]:
    return sorted(hashlib.sha256(f"{build} {number} {row}".encode()).hexdigest() for row in range(rows))


def _vectors(number: int, rows: int) -> np.ndarray:
    return np.random.default_rng(number).standard_normal((rows, DIM), np.float32)


def seen(root: Path) -> str:
    """What a reader finds: the name of a whole build, loaded and searched."""
    builds = Builds(str(root))
    manifest = builds.find()
    assert builds.problems(manifest) == []
    folder = builds.local(manifest)
    tombstoned = tombstones.load(folder, manifest)
    for record in manifest.shards:
        shard = LoadedShard(record, folder, "cosine", tombstoned.get(record.number))
        (hits,) = hits_of(shard, distance.prepared(_vectors(99, 1), "cosine"), 50)
        assert len(hits) == record.live
    return manifest.build


def grow_killed(root: Path, name: str, limit: int) -> None:
    """Grows, and kills this process at a change of the file system; exits with the number of changes if it lives."""
    changes = 0

    def count(event: str, args: tuple[Any, ...]) -> None:
        nonlocal changes
        writes = event in ("os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "shutil.rmtree")
        writes |= event == "open" and isinstance(args[2], int) and bool(args[2] & (os.O_WRONLY | os.O_RDWR))
        if writes and str(root) in os.fspath(args[0] if not isinstance(args[0], int) else ""):
            changes += 1
            if changes == limit:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(count)
    grow(root, name)
    os._exit(changes)


def exit_code(root: Path, name: str, limit: int) -> int:
    """How a process ends that grows and is killed at a change; 0 stands for no change."""
    context = multiprocessing.get_context("forkserver")  # which has imported what each of its children needs
    context.set_forkserver_preload([__name__])
    process = context.Process(target=grow_killed, args=(root, name, limit))
    process.start()
    process.join()
    assert process.exitcode is not None
    return process.exitcode


@pytest.mark.kill
@pytest.mark.parametrize("every", [7, pytest.param(1, marks=pytest.mark.slow)])
def test_readers_see_a_whole_build_wherever_a_kill_falls(tmp_path: Path, every: int) -> None:
    first(tmp_path / "whole")
    changes, names = exit_code(tmp_path / "whole", "b2", 0), set()
    assert changes > 20
    for limit in range(1, changes + 1, every):
        root = tmp_path / f"killed-{limit}"
        first(root)
        assert exit_code(root, "b2", limit) == -signal.SIGKILL
        names.add(seen(root))
        if seen(root) == "b1":
            assert exit_code(root, "b3", 0) > FAILED  # the next run does what is left, and sweeps what was
            assert seen(root) == "b3"
            folder = root / "builds" / SPACE  # a killed write of CURRENT leaves a hidden draft beside it
            here = {str(path.relative_to(folder)) for path in folder.rglob("[!.]*.*")}
            named = {file.name for file in Builds(str(root)).find().files}
            assert here - {"b3/manifest.json"} == named
    assert names == {"b1", "b2"}
