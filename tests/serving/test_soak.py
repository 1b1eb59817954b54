"""Good queries beside hostile traffic of all kinds at once, for five minutes."""

import shutil
from pathlib import Path

import pytest
from tests.serving.soak import soak

from likeness.core.settings import Settings

SECONDS = 300


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_good_queries_are_answered_beside_hostile_ones(published: Settings, photo: bytes, tmp_path: Path) -> None:
    shutil.copytree(published.root, tmp_path / "root")
    seen = soak(published.model_copy(update={"root": str(tmp_path / "root")}), photo, SECONDS, tmp_path)
    assert not seen.unanswered, seen.unanswered[:3]
    assert len(seen.beside) > SECONDS
    assert {status for _, status in seen.hostile} <= {0, 200, 400, 401, 403, 408, 413, 422, 429, 503}, seen.hostile
    assert seen.hostile.keys() >= {("near duplicates", 200), ("broken photos", 422), ("a wrong key", 401)}
    assert seen.slower <= 5
    assert seen.grown <= 20e6, [round(one / 1e6) for one in seen.memory[::10]]
