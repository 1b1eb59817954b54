"""The page, as a person searches with it: in Debian's chromium, by pointer and by keyboard alone."""

from pathlib import Path
from typing import Any

import pytest
from tests.browser import needs_chromium
from tests.serving.pages import categories, focused, names, pressed, says, settled

from likeness.serving.leaf import LeafAnswer
from likeness.serving.service import Service

pytestmark = needs_chromium


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
    settled(page)
    says(page, "24 results")
    assert names(page) != whole
    page.locator("#whole").click()
    settled(page)
    says(page, "24 results")
    assert names(page) == whole
    page.locator("#chips button[data-category='裤子/2.0']").click()
    says(page, "3 results")
    assert categories(page) == {"裤子/2.0"}
    assert pressed(page) == "裤子/2.0"
    page.locator("#chips button[data-category=all]").click()
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    says(page, "24 results")
    page.locator("#more").click()
    says(page, "48 results")
    assert len(set(names(page))) == 48


def test_more_like_this_and_back(page: Any) -> None:
    page.locator(".like").nth(2).click()
    says(page, "15 results")
    product = page.locator("#subject-text").text_content().removeprefix("More like ")
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
    settled(page)
    assert set(page.locator("#results .attributes dd").all_text_contents()) == {colours[1]}
    page.locator("#only button").click()
    settled(page)
    says(page, "24 results")
    assert page.locator("#results .attributes dd").all_text_contents() == colours
    assert not page.locator("#only").is_visible()


def test_options(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator(".options summary").click()
    page.locator("#least").fill("0.99")
    page.locator("#least").press("Enter")
    says(page, "1 result")
    page.locator("#least").fill("1")
    page.locator("#least").press("Tab")
    settled(page)
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
    assert focused(page, "#frame")
    page.keyboard.press("b")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Shift+ArrowLeft")
    page.locator("#whole").wait_for()
    page.wait_for_timeout(600)  # it searches when the keys rest
    settled(page)
    says(page, "24 results")
    assert names(page) != before
    page.keyboard.press("Escape")
    settled(page)
    tab_to("#chips button[data-category=all]")
    page.keyboard.press("Enter")
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    tab_to(".like")
    page.keyboard.press("Enter")
    page.locator("#subject-text", has_text="More like").wait_for()


def test_lacking_shards_are_told(page: Any, hat: Path, service: Service, monkeypatch: pytest.MonkeyPatch) -> None:
    leaf = service.builds.loaded().root._leaf
    search = leaf.search

    def lacking(*arguments: Any, **named: Any) -> LeafAnswer:
        answer = search(*arguments, **named)
        return LeafAnswer(answer.shards[1:], answer.searched, answer.hits, ["leaf 10.0.0.5:8081: not ready (shard 0)"])

    monkeypatch.setattr(leaf, "search", lacking)
    page.set_input_files("#file", hat)
    says(page, "24 results Part of the catalogue did not answer, so products may be missing.")
    page.locator("#missing summary").click()
    assert page.locator("#missing li").all_text_contents() == ["leaf 10.0.0.5:8081: not ready (shard 0)"]
    assert "bad" in page.locator("#state").get_attribute("class")
    assert page.locator("#results li").count() == 24


def test_it_fits_the_screen(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    wide = page.evaluate("document.documentElement.scrollWidth")
    assert wide <= page.viewport_size["width"]
    colour = page.evaluate("getComputedStyle(document.body).backgroundColor")
    lightest = max(int(part) for part in colour.removeprefix("rgb(").removesuffix(")").split(","))
    assert (lightest < 80) == page.evaluate("matchMedia('(prefers-color-scheme: dark)').matches")
    for selector in ("#again", "#chips button"):
        assert page.locator(selector).first.bounding_box()["height"] >= 24


def test_many_categories(page: Any, hat: Path) -> None:
    def with_more(route: Any) -> None:
        answer = route.fetch().json()
        answer["categories"] |= {f"large {number:02}": 1000 for number in range(40)}
        route.fulfill(json=answer)

    page.route("**/v1/catalogue*", with_more)
    page.reload()
    page.set_input_files("#file", hat)
    says(page, "24 results")
    assert page.locator("#chips button").count() == 14
    page.locator("#chips select").focus()
    page.locator("#chips select").select_option("hat")
    says(page, "16 results")
    assert categories(page) == {"hat"}
    assert focused(page, "#chips select")
    assert page.locator("#chips button[aria-pressed=true]").count() == 0
    page.go_back()
    says(page, "24 results")
    assert page.locator("#chips select").input_value() == ""
    assert pressed(page) == "auto"
