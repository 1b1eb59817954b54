"""Hidden products: left out of all search results within seconds, without a new build, until they are shown again.

ROOT/hidden/ has a file for each, named by the SHA-256 of the product id, so that an id is never used as a path. Builds,
tables and nightly runs are not affected.
"""

import hashlib
import json
import math
import re
import time
from collections.abc import Iterable, Sequence

from likeness import storage
from likeness.core import uris

_FRESH_S = 1.0
_SETTLED_S = 3.0
"""Seconds after which a folder whose time of change stayed the same is not listed again: clocks are coarse."""
_ENTRY = re.compile(r"([0-9a-f]{64})\.json")


class HiddenProducts:
    """The hidden products of one root."""

    def __init__(self, root: str) -> None:
        self._folder = uris.join(uris.canonical(root), "hidden")
        self._files = storage.files(self._folder)
        self._digests, self._mtime = frozenset[bytes](), -1
        self._listed_at = self._read_at = -math.inf

    @property
    def problem(self) -> str:
        """Why the list may be out of date; empty if it is not."""
        return ""

    def hide(self, product_ids: Iterable[str]) -> None:
        """Hides products; it is no error if some are hidden already."""
        for product_id in product_ids:
            entry = {"product_id": product_id, "since": int(time.time())}
            self._files.write(self._uri(product_id), json.dumps(entry).encode())

    def show(self, product_ids: Iterable[str]) -> None:
        """Shows hidden products again; it is no error if some are not hidden."""
        for product_id in product_ids:
            self._files.delete(self._uri(product_id))

    def all(self) -> list[tuple[str, int]]:
        """(product_id, Unix time since when it is hidden) of all hidden products, earliest first."""
        names = filter(_ENTRY.fullmatch, self._files.names(self._folder))
        entries = [json.loads(self._files.read(uris.join(self._folder, name))) for name in names]
        return sorted(((entry["product_id"], entry["since"]) for entry in entries), key=lambda pair: (pair[1], pair[0]))

    def without(self, product_ids: Sequence[str]) -> tuple[str, ...]:
        """The products that are not hidden; the list of hidden ones is read again after a second."""
        if time.monotonic() - self._read_at >= _FRESH_S:
            self.refresh()
        return self._without(product_ids)

    def refresh(self) -> None:
        """Reads which products are hidden. The folder is listed only if it has changed.

        Raises:
            OSError: the store does not answer; the last list stays in force.
        """
        try:
            mtime = self._files.stat(self._folder).mtime
        except FileNotFoundError:
            mtime = -1
        now = time.monotonic()
        if mtime != self._mtime or now - self._listed_at < _SETTLED_S:
            entries = map(_ENTRY.fullmatch, self._files.names(self._folder))
            self._digests = frozenset(bytes.fromhex(entry[1]) for entry in entries if entry)
            if mtime != self._mtime:
                self._mtime, self._listed_at = mtime, now
        self._read_at = now

    def _without(self, product_ids: Sequence[str]) -> tuple[str, ...]:
        if not self._digests:
            return tuple(product_ids)
        return tuple(product_id for product_id in product_ids if _digest(product_id) not in self._digests)

    def _uri(self, product_id: str) -> str:
        return uris.join(self._folder, f"{_digest(product_id).hex()}.json")


def _digest(product_id: str) -> bytes:
    return hashlib.sha256(product_id.encode()).digest()
