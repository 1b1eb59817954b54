"""A root that grows from this machine to the stack, and is compacted and erased from there."""

from pathlib import Path
from typing import Any

import pytest
from tests.runs import assert_equal, state, traces

from likeness import storage
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import LISTINGS

from .places import Place, place

pytestmark = [pytest.mark.stack, pytest.mark.timeout(900)]


def likeness(*words: str, place: Place) -> None:
    code, output = place.likeness(*words)
    assert code == 0, output


def test_a_root_moves_to_the_stack_and_is_kept_there(
    on_cluster: Place, folder: Path, undisturbed: tuple[Any, ...]
) -> None:
    embedded = place(on_cluster.settings.source.uri, str(folder / "root"), folder / "cache")
    likeness("copy", on_cluster.settings.root, place=embedded)
    for job in ("load", "compact"):
        with on_cluster.start(job) as started:
            assert started.code() == 0, started.output
    before = place(
        str(folder / "photos.tar"), on_cluster.settings.root, folder / "cache", on_cluster.settings.keyed.uri
    )
    assert_equal(state(before.settings), undisturbed)
    likeness("verify", place=on_cluster)
    product, image = TableReader(on_cluster.settings).read(LISTINGS, ("product_id", "image_id")).to_pylist()[0].values()
    assert traces(on_cluster.settings.root, product, image)
    likeness("forget", product, place=on_cluster)
    assert traces(on_cluster.settings.root, product, image) == []
    store = storage.keyed(on_cluster.settings.keyed.uri)
    assert store.get_products([product]) == {}
    assert len(list(store.scan_products())) == len(undisturbed[2]) - 1
    store.close()
    likeness("verify", place=on_cluster)
