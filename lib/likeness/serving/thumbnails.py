"""Thumbnails: images of the catalogue in, small JPEGs out; recent ones are cached.   [Pillow]"""

import hashlib
import threading
from collections import OrderedDict
from contextlib import suppress

from likeness import storage
from likeness.core.errors import LikenessError
from likeness.core.settings import Limits
from likeness.images.contact_sheet import thumbnail
from likeness.images.image import encode_image
from likeness.storage.table_reader import TableReader

_CACHE_BYTES = 64_000_000


class Thumbnails:
    """A cache of thumbnails, drawn from the source file where it can be read, else from the `images` table."""

    def __init__(self, tables: TableReader, limits: Limits) -> None:
        self._tables, self._limits = tables, limits
        self._cached: OrderedDict[tuple[str, int], bytes] = OrderedDict()
        self._bytes, self._lock = 0, threading.Lock()

    def get(self, image_id: str, uri: str, side: int) -> bytes | None:
        """A JPEG within a square of `side` pixels; None if the photo is gone."""
        with self._lock:
            if (image_id, side) in self._cached:
                self._cached.move_to_end((image_id, side))
                return self._cached[image_id, side]
        photo = self._photo(image_id, uri)
        small = thumbnail(photo, side) if photo else None
        if small is None:
            return None
        data = encode_image(small, "JPEG")
        with self._lock:
            if (image_id, side) not in self._cached:
                self._cached[image_id, side] = data
                self._bytes += len(data)
            while self._bytes > _CACHE_BYTES:
                self._bytes -= len(self._cached.popitem(last=False)[1])
        return data

    def _photo(self, image_id: str, uri: str) -> bytes | None:
        with suppress(OSError, LikenessError):  # packed, moved or deleted since: the table has it
            if storage.files(uri).stat(uri).length <= self._limits.max_bytes:
                photo = storage.files(uri).read(uri)
                if hashlib.sha256(photo).hexdigest() == image_id:
                    return photo
        return self._tables.photos([image_id]).get(image_id)
