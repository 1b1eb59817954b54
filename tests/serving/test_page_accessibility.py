"""The page as axe sees it: empty, with an answer, with an error, and closed by a key; and a report of a run."""

from pathlib import Path
from typing import Any

from tests.browser import needs_chromium, violations
from tests.serving.pages import says, settled

from likeness.core.settings import Settings

pytestmark = needs_chromium


def test_the_empty_page(page: Any) -> None:
    says(page, "start with one of these")
    page.locator(".options summary").click()
    assert violations(page) == []


def test_an_answer(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator("#results .attributes button").first.click()
    page.locator("#only button").wait_for()
    page.locator("#frame").press("b")
    page.locator("#whole").wait_for()
    page.wait_for_timeout(600)
    settled(page)
    assert violations(page) == []
    page.locator(".like").first.click()
    page.locator("#permalink").wait_for()
    settled(page)
    assert violations(page) == []


def test_an_error(page: Any, hat: Path, tmp_path: Path) -> None:
    says(page, "start with one of these")
    (tmp_path / "notes.txt").write_text("no photo")
    page.set_input_files("#file", tmp_path / "notes.txt")
    says(page, "not a photo")
    assert violations(page) == []
    page.route("**/v1/search", lambda route: route.fulfill(status=503, body="{}"))
    page.set_input_files("#file", hat)
    page.locator("#state.bad").wait_for()
    settled(page)
    assert violations(page) == []


def test_a_key_is_needed(page: Any, guarded: tuple[str, str]) -> None:
    page.goto(guarded[0])
    page.locator("#key").fill("wrong")
    page.keyboard.press("Enter")
    says(page, "does not open the search", "#key-text")
    assert violations(page) == []


def test_the_report_of_a_nightly_run(page: Any, published: Settings) -> None:
    page.goto(f"file://{published.root}/reports/latest.html")
    assert violations(page) == []
    page.locator("details summary").last.click()
    assert violations(page) == []
