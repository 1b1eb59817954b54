"""Contact sheets: photos with captions, as a query and its neighbours, drawn as one image.   [Pillow]"""

from collections.abc import Sequence

from PIL import Image, ImageDraw

from likeness.core.settings import Limits
from likeness.images.image import BadImage, decode, encode_image

_TILE, _GAP, _LINE = 180, 12, 16


def draw_contact_sheet(tiles: Sequence[tuple[bytes | None, str]], columns: int) -> bytes:
    """Draws photos with captions in a grid; a missing photo is an empty frame.

    Args:
        tiles: encoded photos, None if missing, and their captions.
        columns: tiles a row.

    Returns:
        A PNG.
    """
    rows = -(-len(tiles) // columns)
    width, height = _TILE + _GAP, _TILE + 2 * _LINE + _GAP
    sheet = Image.new("RGB", (columns * width + _GAP, rows * height + _GAP), "white")
    draw = ImageDraw.Draw(sheet)
    for number, (data, caption) in enumerate(tiles):
        x, y = _GAP + number % columns * width, _GAP + number // columns * height
        photo = thumbnail(data, _TILE) if data else None
        if photo is None:
            draw.rectangle((x, y, x + _TILE, y + _TILE), outline="grey")
        else:
            sheet.paste(photo, (x + (_TILE - photo.width) // 2, y + (_TILE - photo.height) // 2))
        for line, text in enumerate(caption.split("\n")[:2]):
            draw.text((x, y + _TILE + 2 + line * _LINE), _fit(draw, text), fill="black")
    return encode_image(sheet, "PNG")


def thumbnail(data: bytes, side: int) -> Image.Image | None:
    """Scales a photo down into a square of `side` pixels; None if it cannot be decoded."""
    try:
        photo = decode(data, Limits(), min_side=side)
    except BadImage:
        return None
    photo.thumbnail((side, side))
    return photo


def _fit(draw: ImageDraw.ImageDraw, text: str) -> str:
    text = text.encode("latin-1", "replace").decode("latin-1")  # what Pillow's default font has
    while draw.textlength(text) > _TILE and len(text) > 4:
        text = text[:-4] + "..."
    return text
