"""Calls to HBase through any of its Thrift servers, repeated while they fail in passing.   [happybase, tenacity]"""

import itertools
import random
import threading
from collections.abc import Callable
from contextlib import suppress
from typing import TypeVar

import happybase
from happybase import Connection
from tenacity import Retrying, retry_if_exception, stop_after_delay, wait_exponential_jitter
from thriftpy2.thrift import TException

from likeness.core.errors import ServiceError
from likeness.storage.hbase_layout import Place

T = TypeVar("T")
_PERMANENT = ("TableNotFound", "TableNotEnabled", "NoSuchColumnFamily", "AccessDenied", "DoNotRetry", "Illegal")


class HbasePool:
    """Connections to any of the Thrift servers; those not in use wait here for the next call."""

    def __init__(self, place: Place) -> None:
        self._place, self._idle, self._closed = place, list[Connection](), False
        self._lock, self._turn = threading.Lock(), itertools.count(random.randrange(len(place.servers)))

    def call(self, work: Callable[[Connection], T], patience_s: float | None = None) -> T:
        """Does one repeatable piece of work.

        Raises:
            ServiceError: it failed for good, or time and again.
        """
        limit = self._place.retry_s if patience_s is None else patience_s
        tries = Retrying(
            retry=retry_if_exception(_passing),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            stop=stop_after_delay(limit),
            reraise=True,
        )
        try:
            answer: T = tries(
                self._once, work, None if patience_s is None else min(patience_s / 2, self._place.timeout_s)
            )
            return answer
        except (OSError, TException) as error:
            raise ServiceError(
                f"keyed.uri = {self._place.uri}: {_told(error)}; "
                "are HBase and its Thrift servers up, and are host and port right?"
            ) from None

    def _once(self, work: Callable[[Connection], T], timeout_s: float | None) -> T:
        connection = self._take(timeout_s)
        try:
            answer = work(connection)
        except BaseException:
            _close(connection)  # what it was about to say is not for the next caller
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return answer
        _close(connection)
        return answer

    def _take(self, timeout_s: float | None) -> Connection:
        with self._lock:
            if self._closed:
                raise ServiceError(f"keyed.uri = {self._place.uri}: the store was closed; open it again")
            if self._idle:
                return self._idle.pop()
        failed: OSError | TException | None = None
        for _ in self._place.servers:
            host, port = self._place.servers[next(self._turn) % len(self._place.servers)]
            try:
                return happybase.Connection(
                    host,
                    port,
                    timeout=int(1000 * (timeout_s or self._place.timeout_s)),
                    table_prefix=None,
                    transport=self._place.transport,
                    protocol=self._place.protocol,
                )
            except (OSError, TException) as error:
                failed = error
        assert failed is not None
        raise failed

    def close(self) -> None:
        """Closes what is idle; what is in use is closed when it comes back."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for connection in idle:
            _close(connection)


def _passing(error: BaseException) -> bool:
    """Whether the same call may succeed later."""
    return isinstance(error, OSError | TException) and not any(name in _told(error) for name in _PERMANENT)


def _told(error: BaseException) -> str:
    message = getattr(error, "message", None) or str(error)
    text = message.decode(errors="replace") if isinstance(message, bytes) else str(message)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    return (lines[0] if lines else type(error).__name__)[:500]


def _close(connection: Connection) -> None:
    with suppress(OSError, TException):
        connection.close()
