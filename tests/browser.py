"""Debian's chromium for tests: a desktop and a phone, and what axe (WCAG and good practice) says of a page."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

_CHROMIUM = shutil.which("chromium")
needs_chromium = pytest.mark.skipif(
    _CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
)
VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 860}},
    "phone": {
        "viewport": {"width": 360, "height": 740},
        "is_mobile": True,
        "has_touch": True,
        "color_scheme": "dark",
    },
}
"""Contexts of the browser by name."""


@contextmanager
def chromium() -> Iterator[Any]:
    """A browser without windows."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=_CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


def violations(page: Any) -> list[str]:
    """Each rule of axe that a page breaks, with the elements that break it."""
    from axe_playwright_python.sync_playwright import Axe

    broken = Axe().run(page).response["violations"]
    return [f"{rule['id']}: {', '.join(node['html'][:120] for node in rule['nodes'])}" for rule in broken]
