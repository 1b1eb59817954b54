"""Hidden products: left out of all search results within seconds, without a new build, until they are shown again.

ROOT/hidden/ has a file for each, named by the SHA-256 of the product id, so that an id is never used as a path. Builds,
tables and nightly runs are not affected.
"""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence

from likeness import storage
from likeness.core import uris

_FRESH_S = 1.0


class HiddenProducts:
    """The hidden products of one root."""

    def __init__(self, root: str) -> None:
        self._folder = uris.join(uris.canonical(root), "hidden")
        self._files = storage.files(self._folder)
        self._names, self._read = frozenset[str](), -_FRESH_S

    def hide(self, product_ids: Iterable[str]) -> None:
        """Hides products; it is no error if some are hidden already."""
        for product_id in product_ids:
            entry = {"product_id": product_id, "since": int(time.time())}
            self._files.write(uris.join(self._folder, _name(product_id)), json.dumps(entry).encode())

    def show(self, product_ids: Iterable[str]) -> None:
        """Shows hidden products again; it is no error if some are not hidden."""
        for product_id in product_ids:
            self._files.delete(uris.join(self._folder, _name(product_id)))

    def all(self) -> list[tuple[str, int]]:
        """(product_id, Unix time since when it is hidden) of all hidden products, earliest first."""
        entries = [json.loads(self._files.read(uris.join(self._folder, name))) for name in self._listed()]
        return sorted(((entry["product_id"], entry["since"]) for entry in entries), key=lambda pair: (pair[1], pair[0]))

    def without(self, product_ids: Sequence[str]) -> tuple[str, ...]:
        """The products that are not hidden; the list of hidden ones is read again after a second."""
        if time.monotonic() - self._read >= _FRESH_S:
            self._names, self._read = frozenset(self._listed()), time.monotonic()
        if not self._names:
            return tuple(product_ids)
        return tuple(product_id for product_id in product_ids if _name(product_id) not in self._names)

    def _listed(self) -> list[str]:
        return [name for name in self._files.names(self._folder) if name.endswith(".json")]


def _name(product_id: str) -> str:
    return hashlib.sha256(product_id.encode()).hexdigest() + ".json"
