"""What the tests of the page read from it, and do to it."""

import base64
from collections.abc import Sequence
from pathlib import Path
from typing import Any


def says(page: Any, text: str, where: str = "#state") -> None:
    """Waits until the page says a text."""
    from playwright.sync_api import expect

    expect(page.locator(where)).to_contain_text(text, timeout=20_000)


def settled(page: Any) -> None:
    """Waits until the search that was begun has an answer."""
    page.locator("#state:not(.busy)").wait_for()


def names(page: Any) -> list[str]:
    """The products of the results, in their order."""
    return list(page.locator("#results .product").all_text_contents())


def categories(page: Any) -> set[str]:
    """The categories of the results."""
    return set(page.locator("#results .category").all_text_contents())


def pressed(page: Any) -> str:
    """The category that is searched, as the page has it."""
    return str(page.locator("#chips button[aria-pressed=true]").get_attribute("data-category"))


def focused(page: Any, selector: str) -> bool:
    """Whether the focus is on an element of that selector."""
    return bool(page.evaluate("selector => document.activeElement.matches(selector)", selector))


def drop(page: Any, items: Sequence[dict[str, str]] = (), files: Sequence[Path] = ()) -> None:
    """Drops what another window has dragged to the page, as the browser itself passes it on."""
    data = {"items": list(items), "files": [str(file) for file in files], "dragOperationsMask": 1}
    session = page.context.new_cdp_session(page)
    for event in ("dragEnter", "dragOver", "drop"):
        session.send("Input.dispatchDragEvent", {"type": event, "x": 100, "y": 150, "data": data})
    session.detach()


def paste(page: Any, file: Path, kind: str) -> None:
    """Pastes a photo, as from the clipboard."""
    page.evaluate(
        """([text, name, type]) => {
            const bytes = Uint8Array.from(atob(text), (one) => one.charCodeAt(0)), data = new DataTransfer();
            data.items.add(new File([bytes], name, { type }));
            document.body.dispatchEvent(new ClipboardEvent("paste", { clipboardData: data, bubbles: true }));
        }""",
        [base64.b64encode(file.read_bytes()).decode(), file.name, kind],
    )
