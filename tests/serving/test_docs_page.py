"""The interactive page of the API at /docs, in Debian's chromium."""

import os
import shutil
from pathlib import Path

import pytest

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
)


def test_a_photo_is_sent_from_the_page_of_the_api(address: str, sample: Path) -> None:
    """It loads nothing from elsewhere, its own policy lets it work, and a photo that it sends is answered."""
    from playwright.sync_api import sync_playwright

    faults, elsewhere = list[str](), list[str]()
    hat = min((sample / "hat").iterdir())
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page()
        page.set_default_timeout(60_000)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        own = (address, "data:", "blob:")
        page.on("request", lambda request: None if request.url.startswith(own) else elsewhere.append(request.url))
        page.goto(f"{address}/docs")
        operation = page.locator("#operations-search-search_by_photo")
        operation.locator(".opblock-summary-control").click()
        operation.locator("input[type=file]").set_input_files(hat)
        with page.expect_response(lambda answer: answer.url == f"{address}/v1/search") as answered:
            operation.locator("button.execute").click()
        answer = answered.value
        assert answer.status == 200, answer.text()
        assert answer.json()["results"][0]["product_id"] == hat.stem
        assert page.locator(".opblock").count() == 9
        browser.close()
    assert not faults
    assert not elsewhere
