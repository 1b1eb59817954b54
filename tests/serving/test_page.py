"""The page, as a person uses it: in Debian's chromium, by pointer and by keyboard alone."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness.serving.leaf import LeafAnswer
from likeness.serving.service import Service

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(
    CHROMIUM is None and not os.environ.get("CI"), reason="no chromium: apt-get install chromium"
)


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield opened
        opened.close()


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The page, opened; at the end it must not have complained."""
    faults: list[str] = []
    with browser.new_context(viewport={"width": 1280, "height": 860}) as context:
        opened = context.new_page()
        opened.set_default_timeout(20_000)
        opened.on("pageerror", lambda error: faults.append(str(error)))
        opened.on("console", lambda message: faults.append(message.text) if message.type == "error" else None)
        opened.on("response", lambda answer: faults.append(answer.url) if answer.status >= 500 else None)
        opened.goto(address)
        yield opened
    assert not [fault for fault in faults if "status of 422" not in fault]  # what chromium says of a bad photo


@pytest.fixture
def hat(sample: Path) -> Path:
    return min((sample / "hat").iterdir())


def says(page: Any, text: str) -> None:
    from playwright.sync_api import expect

    expect(page.locator("#state")).to_contain_text(text, timeout=20_000)


def names(page: Any) -> list[str]:
    return list(page.locator("#results .product").all_text_contents())


def categories(page: Any) -> set[str]:
    return set(page.locator("#results .category").all_text_contents())


def test_a_photo_a_box_and_a_category(page: Any, hat: Path) -> None:
    says(page, "start with one of these")
    page.set_input_files("#file", hat)
    says(page, "24 results")
    whole = names(page)
    assert float(page.locator(".score").first.text_content()) > 0.999
    frame = page.locator("#frame").bounding_box()
    page.mouse.move(frame["x"] + 0.3 * frame["width"], frame["y"] + 0.1 * frame["height"])
    page.mouse.down()
    page.mouse.move(frame["x"] + 0.7 * frame["width"], frame["y"] + 0.4 * frame["height"])
    page.mouse.up()
    page.locator("#whole").wait_for()
    page.wait_for_load_state("networkidle")
    says(page, "24 results")
    assert names(page) != whole
    page.locator("#whole").click()
    page.wait_for_load_state("networkidle")
    says(page, "24 results")
    assert names(page) == whole
    page.locator("#chips button[data-category='裤子/2.0']").click()
    says(page, "3 results")
    assert categories(page) == {"裤子/2.0"}
    assert page.locator("#chips button[aria-pressed=true]").text_content() == "裤子/2.0"
    page.locator("#chips button[data-category=all]").click()
    says(page, "24 results; searched 163 of 163")
    page.locator("#more").click()
    says(page, "48 results")
    assert len(set(names(page))) == 48


def test_more_like_this_and_back(page: Any) -> None:
    page.locator(".like").nth(2).click()
    says(page, "results; searched")
    product = page.locator("#asked-text").text_content().removeprefix("More like ")
    assert product not in names(page)
    assert len(names(page)) >= 10
    assert len(categories(page)) == 1  # its own
    page.locator("#again").click()
    says(page, "start with one of these")
    assert page.locator("#drop").is_visible()


def test_only_what_has_an_attribute(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    assert not page.locator("#only").is_visible()
    colours = page.locator("#results .attributes dd").all_text_contents()
    assert len(set(colours)) > 1
    page.locator("#results .attributes button", has_text=colours[1]).first.click()
    page.locator("#only button", has_text=f"colour: {colours[1]}").wait_for()
    page.wait_for_load_state("networkidle")
    assert set(page.locator("#results .attributes dd").all_text_contents()) == {colours[1]}
    page.locator("#only button").click()
    page.wait_for_load_state("networkidle")
    says(page, "24 results")
    assert page.locator("#results .attributes dd").all_text_contents() == colours
    assert not page.locator("#only").is_visible()


def test_options(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator(".options summary").click()
    page.locator("#least").fill("0.99")
    page.locator("#least").press("Enter")
    says(page, "1 results")
    page.locator("#least").fill("1")
    page.locator("#least").press("Tab")
    page.wait_for_load_state("networkidle")
    assert len(names(page)) <= 1
    page.locator("#distinct").check()
    page.locator("#least").fill("")
    page.locator("#least").press("Tab")
    says(page, "24 results")


def test_the_keyboard_alone(page: Any, hat: Path) -> None:
    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("chosen => document.activeElement.matches(chosen)", selector):
                return
        raise AssertionError(f"the Tab key does not reach {selector}")

    says(page, "start with one of these")
    tab_to("#file")
    page.set_input_files("#file", hat)
    says(page, "24 results")
    before = names(page)
    tab_to("#frame")
    page.keyboard.press("b")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    page.locator("#whole").wait_for()
    page.wait_for_timeout(600)  # it searches when the keys rest
    page.wait_for_load_state("networkidle")
    says(page, "24 results")
    assert names(page) != before
    page.keyboard.press("Escape")
    page.wait_for_load_state("networkidle")
    tab_to("#chips button[data-category=all]")
    page.keyboard.press("Enter")
    says(page, "searched 163 of 163")
    tab_to(".like")
    page.keyboard.press("Enter")
    page.locator("#asked-text", has_text="More like").wait_for()


def test_what_is_no_photo_is_told(page: Any, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("no photo")
    (tmp_path / "broken.jpg").write_bytes(b"no photo either")
    page.set_input_files("#file", tmp_path / "notes.txt")
    says(page, "notes.txt is not a photo")
    with page.expect_response(lambda response: response.status == 422):
        page.set_input_files("#file", tmp_path / "broken.jpg")
    says(page, "not_an_image")
    assert page.locator("#results li").count() == 0


def test_lacking_shards_are_told(page: Any, hat: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = service.builds.loaded().root._leaf
    search = leaf.search

    def lacking(*arguments: Any, **named: Any) -> LeafAnswer:
        answer = search(*arguments, **named)
        return LeafAnswer(answer.shards[1:], answer.searched, answer.hits, ["leaf 10.0.0.5:8081: not ready (shard 0)"])

    monkeypatch.setattr(leaf, "search", lacking)
    page.set_input_files("#file", hat)
    says(page, "only 2 of 3 shards answered, so results may be missing")
    assert "bad" in page.locator("#state").get_attribute("class")
    assert page.locator("#results li").count() == 24


def test_a_narrow_dark_screen(browser: Any, address: str, hat: Path) -> None:
    with browser.new_context(viewport={"width": 360, "height": 740}, color_scheme="dark") as context:
        page = context.new_page()
        page.goto(address)
        page.set_input_files("#file", hat)
        says(page, "24 results")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert max(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(",")) < 80
        for selector in ("#again", "#chips button"):
            assert page.locator(selector).first.bounding_box()["height"] >= 24
