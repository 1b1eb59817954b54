"""Hidden products: taken out of every answer within seconds, without a build, until they are shown again.

ROOT/hidden/ holds a file for each, named by the SHA-256 of the product id, so that an id is never a path. Builds,
tables and nightly runs know nothing of it.
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
        """Takes products out of all answers; those already hidden stay so."""
        for product_id in product_ids:
            told = {"product_id": product_id, "since": int(time.time())}
            self._files.write(uris.join(self._folder, _name(product_id)), json.dumps(told).encode())

    def show(self, product_ids: Iterable[str]) -> None:
        """Puts products back; those not hidden are left as they are."""
        for product_id in product_ids:
            self._files.delete(uris.join(self._folder, _name(product_id)))

    def all(self) -> list[tuple[str, int]]:
        """(product_id, seconds since 1970 when it was hidden), the longest hidden first."""
        found = [json.loads(self._files.read(uris.join(self._folder, name))) for name in self._listed()]
        return sorted(((one["product_id"], one["since"]) for one in found), key=lambda one: (one[1], one[0]))

    def without(self, product_ids: Sequence[str]) -> tuple[str, ...]:
        """Those of the products that are not hidden, as of a second ago at most."""
        if time.monotonic() - self._read >= _FRESH_S:
            self._names, self._read = frozenset(self._listed()), time.monotonic()
        if not self._names:
            return tuple(product_ids)
        return tuple(product_id for product_id in product_ids if _name(product_id) not in self._names)

    def _listed(self) -> list[str]:
        return [name for name in self._files.names(self._folder) if name.endswith(".json")]


def _name(product_id: str) -> str:
    return hashlib.sha256(product_id.encode()).hexdigest() + ".json"
