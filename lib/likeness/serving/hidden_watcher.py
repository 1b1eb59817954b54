"""Hidden products of a running service, read in the background: no query waits for the store that has their list."""

import math
import threading
import time
from collections.abc import Callable, Sequence

from likeness.catalog.hidden_products import HiddenProducts
from likeness.core.errors import LikenessError

_POLL_S, _STALE_S = 0.5, 5.0
"""Seconds between two looks; seconds after which answers say that the list could not be read."""


class HiddenProductsWatcher(HiddenProducts):
    """Hidden products of one root as they were read last, half a second ago while the store answers."""

    def __init__(self, root: str, report: Callable[[str], None]) -> None:
        super().__init__(root)
        self._report, self._error, self._stopped = report, "", threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="hidden products")

    def start(self) -> None:
        """Reads the list, and again twice a second from then on."""
        self._read()
        self._thread.start()

    def stop(self) -> None:
        """Stops reading."""
        self._stopped.set()
        if self._thread.is_alive():
            self._thread.join()

    @property
    def age_s(self) -> float:
        """Seconds since the list was read; infinite if it never was."""
        return time.monotonic() - self._read_at

    @property
    def unread(self) -> str:
        """Why there is no list yet; empty once it was read."""
        return f"the hidden products cannot be read: {self._error}" if math.isinf(self.age_s) else ""

    @property
    def problem(self) -> str:
        """Why the list may be out of date; empty if it was read within the last seconds."""
        return f"hidden products: read {self.age_s:.0f} s ago, {self._error}" if self.age_s > _STALE_S else ""

    def without(self, product_ids: Sequence[str]) -> tuple[str, ...]:
        """The products that are not hidden, by the list that was read last."""
        return self._without(product_ids)

    def _follow(self) -> None:
        while not self._stopped.wait(_POLL_S):
            self._read()

    def _read(self) -> None:
        try:
            self.refresh()
            self._error = ""
        except Exception as error:  # of any kind: the list that was read last stays in force
            message = str(error) if isinstance(error, (LikenessError, OSError)) else repr(error)
            if message != self._error:
                self._error = message
                self._report(f"hidden products cannot be read, the last list stays in force: {message}")
