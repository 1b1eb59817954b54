"""Where a person is on the page: the focus, back and forward, and links to the look-alikes of a product."""

from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

from tests.browser import needs_chromium
from tests.serving.pages import categories, focused, names, paste, pressed, says, settled

pytestmark = needs_chromium


def searches(page: Any) -> list[str]:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if "search" in request.url else None)
    page.on("request", lambda request: sent.append(request.url) if "similar" in request.url else None)
    return sent


def test_a_new_photo_resets_the_category_and_the_filters(page: Any, hat: Path, sample: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator("#chips button[data-category=hat]").click()
    says(page, "16 results")
    page.locator("#results .attributes button").first.click()
    page.locator("#only button").wait_for()
    paste(page, min((sample / "shoes").iterdir()), "image/jpeg")
    says(page, "24 results")
    assert pressed(page) == "auto"
    assert "shoes" in categories(page)
    assert not page.locator("#only").is_visible()


def test_the_focus_stays_where_a_person_is(page: Any, hat: Path) -> None:
    says(page, "start with one of these")
    page.locator("#file").focus()
    page.set_input_files("#file", hat)
    says(page, "24 results")
    assert focused(page, "#frame")  # on what took the place of the file's button
    page.locator("#chips button[data-category=all]").press("Enter")
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    assert focused(page, "[data-category=all]")
    page.locator("#more").press("Enter")
    says(page, "48 results")
    assert focused(page, "#more")
    place = page.evaluate("scrollY")
    assert place > 0
    page.keyboard.press("Shift+Tab")
    assert focused(page, "#results li:nth-child(48) button")
    page.keyboard.press("Enter")  # only what has this colour
    says(page, "24 results")
    assert focused(page, "#only button")
    page.keyboard.press("Enter")  # without it again
    page.locator("#only").wait_for(state="hidden")
    assert focused(page, "#frame")
    page.locator(".options summary").click()
    page.locator("#least").fill("0.2")
    page.locator("#least").press("Enter")
    settled(page)
    assert focused(page, "#least")
    page.locator("#frame").press("b")
    page.locator("#whole").wait_for()
    page.wait_for_timeout(600)
    page.locator("#whole").press("Enter")
    assert focused(page, "#frame")
    page.locator(".like").nth(5).press("Enter")
    says(page, "result")
    assert focused(page, "#again")
    page.keyboard.press("Enter")
    says(page, "start with one of these")
    assert focused(page, "#file")


def test_back_and_forward(page: Any, hat: Path) -> None:
    says(page, "start with one of these")
    start = names(page)
    page.set_input_files("#file", hat)
    says(page, "24 results")
    photo = names(page)
    page.locator("#chips button[data-category=all]").click()
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    page.locator("#more").click()
    says(page, "48 results")
    everything = names(page)
    page.locator(".like").nth(30).scroll_into_view_if_needed()
    place = page.evaluate("scrollY")
    page.locator(".like").nth(30).click()
    says(page, "15 results")
    product = names(page)
    assert page.evaluate("scrollY") == 0

    sent = searches(page)
    page.go_back()
    says(page, "48 results")
    assert names(page) == everything
    assert abs(page.evaluate("scrollY") - place) < 5
    assert focused(page, "#results li:nth-child(31) .like")
    assert pressed(page) == "all"
    assert page.locator("#photo").get_attribute("src").startswith("blob:")
    page.go_back()
    says(page, "24 results")
    assert names(page) == photo
    assert pressed(page) == "auto"
    page.go_back()
    says(page, "start with one of these")
    assert names(page) == start
    assert page.locator("#drop").is_visible()
    for products in (photo, everything, product):
        page.go_forward()
        page.wait_for_function(
            "product => document.querySelector('#results .product').textContent === product", arg=products[0]
        )
        assert names(page) == products
    assert sent == []  # an answer that is there is not searched again
    assert "More like" in page.locator("#subject-text").text_content()


def test_back_takes_a_box_and_a_filter_away(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    whole = names(page)
    page.locator("#frame").press("b")
    page.keyboard.press("Shift+ArrowLeft")
    page.wait_for_timeout(600)
    settled(page)
    page.locator("#results .attributes button").first.click()
    page.locator("#only button").wait_for()
    page.go_back()
    page.locator("#only").wait_for(state="hidden")
    assert page.locator("#box").is_visible()
    page.go_back()
    page.locator("#box").wait_for(state="hidden")
    assert names(page) == whole


def test_a_photo_is_gone_after_the_page_is_loaded_again(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.reload()
    says(page, "Choose it once more.")
    page.set_input_files("#file", hat)
    says(page, "24 results")


def test_a_link_to_the_look_alikes_of_a_product(page: Any, address: str) -> None:
    says(page, "start with one of these")
    link = page.locator(".like").nth(2)
    target = f"{address}/{link.get_attribute('href').removeprefix('./')}"
    link.click()
    says(page, "15 results")
    assert page.url == target
    alike = names(page)
    page.locator("#chips button[data-category=all]").click()
    page.get_by_text("of 163 photos").wait_for()
    says(page, "24 results")
    page.locator("#results .attributes button").first.click()
    page.locator("#only button").wait_for()
    says(page, "24 results")
    narrowed, narrow_link = names(page), page.url
    assert parse_qs(urlsplit(narrow_link).query)["category"] == ["all"]

    other = page.context.new_page()
    other.goto(target)
    says(other, "15 results")
    assert names(other) == alike
    other.wait_for_function("document.querySelector('#photo').naturalWidth > 0")
    other.goto(narrow_link)
    says(other, "24 results")
    assert names(other) == narrowed
    assert pressed(other) == "all"
    assert other.locator("#only button").count() == 1
    assert other.locator("#permalink").evaluate("link => link.href") == narrow_link
    other.go_back()
    says(other, "15 results")
    other.close()


def test_a_link_with_a_key_and_limits(page: Any, address: str, guarded: tuple[str, str]) -> None:
    says(page, "start with one of these")
    link = page.locator(".like").nth(2).get_attribute("href").removeprefix("./")
    page.goto(f"{guarded[0]}/{link}")
    page.locator("#key").fill(guarded[1])
    page.keyboard.press("Enter")
    says(page, "15 results")
    page.wait_for_function("document.querySelector('#photo').naturalWidth > 0")


def test_a_link_to_a_product_that_is_gone(page: Any, address: str) -> None:
    hostile = "<img src=x onerror=document.title='gone'>&/../裤子"
    page.goto(f"{address}/?{urlencode({'product': hostile, 'image': 'javascript:alert(1)'})}")
    says(page, "This product is not in the catalogue any more.")
    assert page.locator("#subject-text").text_content() == f"More like {hostile}"
    assert not page.locator("#frame").is_visible()
    assert page.title() != "gone"
    page.locator("#again").click()
    says(page, "start with one of these")
    assert page.url == f"{address}/"
