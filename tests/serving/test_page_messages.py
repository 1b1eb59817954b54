"""What the page says to people when something goes wrong: in plain words, and with what to do."""

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from tests.browser import needs_chromium
from tests.serving.pages import drop, focused, names, paste, says

pytestmark = needs_chromium
HEIC = b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(200)
PROGRAMMERS = re.compile(r"Authorization|Bearer|KEY|HTTP|fetch|serve\.|limits\.|_|--|\b[45]\d\d\b|JSON|undefined|null")
"""What a shopper cannot do anything with."""


def message(page: Any) -> str:
    """All that the page says, without what it says of products."""
    text = " ".join(page.locator("#state, #end, #key-text").all_text_contents())
    assert not PROGRAMMERS.search(text), text
    return text


def uploads(page: Any) -> list[str]:
    sent: list[str] = []
    page.on("request", lambda request: sent.append(request.url) if request.method == "POST" else None)
    return sent


def test_a_wrong_key(page: Any, guarded: tuple[str, str], hat: Path) -> None:
    address, key = guarded
    page.goto(address)
    says(page, "Enter the key that you were given.", "#key-text")
    assert focused(page, "#key")
    assert not page.locator("#file").is_visible()
    for wrong in ("wrong", "ключ", key[:-1]):
        page.locator("#key").fill(wrong)
        page.keyboard.press("Enter")
        says(page, "This key does not open the search.", "#key-text")
        assert message(page)
        assert focused(page, "#key")
    page.locator("#key").fill(f" {key} ")
    page.keyboard.press("Enter")
    says(page, "start with one of these")
    assert not page.locator("#key-form").is_visible()
    assert focused(page, "#file")
    page.set_input_files("#file", hat)
    says(page, "24 results")


def test_a_key_that_ends_while_somebody_searches(page: Any, guarded: tuple[str, str], hat: Path) -> None:
    address, key = guarded
    page.goto(address)
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    says(page, "start with one of these")
    page.evaluate("sessionStorage.setItem('likeness-key', 'revoked')")
    page.set_input_files("#file", hat)
    says(page, "This key does not open the search.", "#key-text")
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    says(page, "24 results")  # of the photo that was chosen before
    assert page.locator("#subject").is_visible()


def test_a_heic_photo(page: Any, tmp_path: Path) -> None:
    sent = uploads(page)
    says(page, "start with one of these")
    for name in ("IMG_0001.HEIC", "renamed.jpg"):
        (tmp_path / name).write_bytes(HEIC)
        page.set_input_files("#file", tmp_path / name)
        says(page, "This is a HEIC photo")
        assert "JPEG" in message(page)
    assert sent == []  # no upload for nothing


def test_a_photo_that_the_browser_can_convert(page: Any, tmp_path: Path, hat: Path) -> None:
    with Image.open(hat) as photo:
        photo.save(tmp_path / "hat.avif", quality=90)
    page.set_input_files("#file", tmp_path / "hat.avif")
    says(page, "24 results")
    assert names(page)[0] == hat.stem
    assert float(page.locator(".score").first.text_content()) > 0.9


@pytest.mark.parametrize(
    ("name", "content", "words"),
    [
        ("notes.txt", b"no photo", "not a photo"),
        ("broken.jpg", b"no photo either", "not a photo"),
        ("film.mov", b"\0\0\0\x14ftypqt  " + bytes(100), "a video"),
        ("empty.jpg", b"", "empty"),
        ("cut.jpg", b"\xff\xd8\xff\xe0" + bytes(50), "damaged"),
    ],
    ids=["text", "garbage", "video", "empty", "damaged"],
)
def test_a_file_that_is_no_photo(page: Any, tmp_path: Path, name: str, content: bytes, words: str) -> None:
    says(page, "start with one of these")
    (tmp_path / name).write_bytes(content)
    page.set_input_files("#file", tmp_path / name)
    says(page, words)
    assert words in message(page)
    assert page.locator("#state").get_attribute("class") == "state bad"


def test_a_picture_dragged_from_a_web_page(page: Any, hat: Path) -> None:
    says(page, "start with one of these")
    link = {"mimeType": "text/uri-list", "data": "https://shop.example/hat.jpg"}
    drop(page, [link, {"mimeType": "text/html", "data": '<img src="https://shop.example/hat.jpg">'}])
    says(page, "Pictures cannot be dragged here from this web page.")
    assert "Copy image" in message(page)
    drop(page, [link])
    says(page, "Pictures cannot be dragged here from this web page.")
    drop(page, [{"mimeType": "text/plain", "data": "some words"}])
    says(page, "This is not a photo.")
    paste(page, hat, "image/jpeg")  # what the message says to do
    says(page, "24 results")
    page.locator("#again").click()
    says(page, "start with one of these")
    drop(page, files=[hat])
    says(page, "24 results")


def test_no_network(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.context.set_offline(True)
    page.locator("#more").click()
    says(page, "There is no connection to the search.", "#end")
    assert "try again" in message(page)
    assert len(names(page)) == 24  # what is there stays
    page.locator("#chips button[data-category=hat]").click()
    says(page, "There is no connection to the search.")
    assert page.locator("#retry").is_visible()
    page.context.set_offline(False)  # it tries again by itself
    says(page, "16 results")
    assert not page.locator("#retry").is_visible()


@pytest.mark.parametrize(
    ("status", "code", "words"),
    [
        (503, "not_ready", "not available right now"),
        (500, "internal", "tell us this number: 4711"),
        (429, "too_many", "Try again in 30 seconds"),
        (502, None, "not available right now"),
    ],
    ids=["not ready", "fault", "busy", "proxy"],
)
def test_a_service_in_trouble(page: Any, hat: Path, status: int, code: str | None, words: str) -> None:
    says(page, "start with one of these")
    problem = json.dumps({"code": code, "detail": "serve.rate", "request_id": "4711"}) if code else "<html>Bad gateway"
    failing = {"status": status, "body": problem, "headers": {"Retry-After": "30"}}
    page.route("**/v1/search", lambda route: route.fulfill(**failing))
    page.set_input_files("#file", hat)
    says(page, words)
    assert words in message(page)
    assert page.locator("#results li").count() == 0
    page.unroute("**/v1/search")
    page.locator("#retry").click()
    says(page, "24 results")


def test_a_filter_that_nothing_meets(page: Any, address: str) -> None:
    says(page, "start with one of these")
    page.goto(f"{address}/?product={names(page)[0]}&where=colour%3DRed")
    says(page, "Nothing looks like this.")
    page.locator("#missing summary").click()
    says(page, "only whole values are compared; did you mean 'red'?", "#missing")


def test_the_end_of_more(page: Any, hat: Path) -> None:
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator("#chips button[data-category=all]").click()
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    for count in (48, 72, 96, 120, 144):
        page.locator("#more").press("Enter")
        says(page, f"{count} results")
        assert focused(page, "#more")
    page.locator("#more").press("Enter")
    says(page, "That is all: 163 results.", "#end")
    assert not page.locator("#more").is_visible()
    assert focused(page, "#end")
    assert len(set(names(page))) == 163


def test_the_limit_of_more(page: Any, guarded: tuple[str, str], hat: Path) -> None:
    address, key = guarded
    page.goto(address)
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator("#chips button[data-category=all]").click()
    page.get_by_text("Searched 163 of 163 photos").wait_for()
    page.locator("#more").click()
    says(page, "48 results")
    page.locator("#more").click()
    says(page, "These are the nearest 48.", "#end")
    assert "choose a category" in message(page)
    assert len(names(page)) == 48


def test_thumbnails_use_up_nothing_of_the_rate(page: Any, guarded: tuple[str, str], hat: Path) -> None:
    address, key = guarded
    statuses: list[tuple[str, int]] = []
    page.on("response", lambda answer: statuses.append((answer.url, answer.status)))
    page.goto(address)
    page.locator("#key").fill(key)
    page.keyboard.press("Enter")
    says(page, "start with one of these")
    page.set_input_files("#file", hat)
    says(page, "24 results")
    page.locator("#more").click()
    says(page, "48 results")
    end = time.monotonic() + 20
    while len(thumbnails := [status for url, status in statuses if "/v1/images/" in url]) < 18 + 48:
        assert time.monotonic() < end
        page.wait_for_timeout(50)
    assert set(thumbnails) == {200}
    assert [status for url, status in statuses if "/v1/search" in url] == [200, 200]


def test_a_photo_before_the_page_is_ready(page: Any, hat: Path) -> None:
    held_back: list[Any] = []
    page.route("**/v1/catalogue*", lambda route: held_back.append(route))
    page.reload()
    page.set_input_files("#file", hat)
    page.wait_for_timeout(300)
    (route,) = held_back
    route.continue_()
    says(page, "24 results")
