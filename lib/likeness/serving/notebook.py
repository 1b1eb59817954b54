"""Tables in notebooks: rows of text and small photos in, one HTML table out."""

import base64
from collections.abc import Iterable, Sequence
from html import escape

_STYLE = "max-width:96px;max-height:96px"


def html_table(
    caption: str, header: Sequence[str], rows: Sequence[Sequence[str]], photos: Sequence[bytes | None]
) -> str:
    """Renders a table with a photo (JPEG, or None) before the cells of each row; text is escaped."""
    lines = [f"<table><caption>{escape(caption)}</caption>", _row("th", map(escape, header))]
    for photo, cells in zip(photos, rows, strict=True):
        lines.append(_row("td", (_image(photo), *map(escape, cells))))
    return "\n".join([*lines, "</table>"])


def _row(tag: str, cells: Iterable[str]) -> str:
    return "<tr>" + "".join(f"<{tag}>{cell}</{tag}>" for cell in cells) + "</tr>"


def _image(photo: bytes | None) -> str:
    return f'<img style="{_STYLE}" src="data:image/jpeg;base64,{base64.b64encode(photo).decode()}">' if photo else ""
