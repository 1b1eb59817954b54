"""README's Python example, run against a root of the sample."""

import re
from pathlib import Path

import pytest

from likeness.core.settings import Settings

PROJECT = Path(__file__).parents[2]


def test_the_example_of_the_readme_runs(
    published: Settings, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (example,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(encoding="utf-8"), re.S)
    assert len([line for line in example.splitlines() if line]) == 5
    assert '"var"' in example
    monkeypatch.chdir(PROJECT)
    exec(example.replace('"var"', repr(published.root)), {})
    printed = capsys.readouterr().out
    assert printed.count("('") == 5
    assert "127708b572ad" in printed, "the photo's own product"
