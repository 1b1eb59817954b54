"""A pool of connections to HBase's Thrift servers that retries transient failures.   [happybase, tenacity]"""

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
from likeness.storage.hbase_layout import HbaseConfig

T = TypeVar("T")
_PERMANENT = ("TableNotFound", "TableNotEnabled", "NoSuchColumnFamily", "AccessDenied", "DoNotRetry", "Illegal")


class HbasePool:
    """Connections to the Thrift servers of one HBase; idle connections are reused."""

    def __init__(self, config: HbaseConfig) -> None:
        self._config, self._idle, self._closed = config, list[Connection](), False
        self._lock, self._next = threading.Lock(), itertools.count(random.randrange(len(config.servers)))

    def call(self, work: Callable[[Connection], T], patience_s: float | None = None) -> T:
        """Calls `work` with a connection, and retries it on transient failures: the call must be idempotent.

        Args:
            work: the call.
            patience_s: seconds for retries; by default the configured `retry_s`.

        Raises:
            ServiceError: the failure is permanent, or the retries failed too.
        """
        limit, timeout_s = self._config.retry_s, self._config.timeout_s
        if patience_s is not None:
            limit, timeout_s = patience_s, min(patience_s / 2, timeout_s)
        tries = Retrying(
            retry=retry_if_exception(_is_transient),
            wait=wait_exponential_jitter(multiplier=0.2, max=5),
            stop=stop_after_delay(limit),
            reraise=True,
        )
        try:
            result: T = tries(self._call_once, work, timeout_s)
            return result
        except (OSError, TException) as error:
            raise ServiceError(
                f"keyed.uri = {self._config.uri}: {_message(error)}; "
                "check that HBase and its Thrift servers are up, and that host and port are right"
            ) from None

    def _call_once(self, work: Callable[[Connection], T], timeout_s: float) -> T:
        connection = self._take(timeout_s)
        try:
            result = work(connection)
        except BaseException:
            _close(connection)  # it may still receive the response to this call
            raise
        with self._lock:
            if not self._closed:
                self._idle.append(connection)
                return result
        _close(connection)
        return result

    def _take(self, timeout_s: float) -> Connection:
        with self._lock:
            if self._closed:
                raise ServiceError(f"keyed.uri = {self._config.uri}: the store was closed; open it again")
            if self._idle:
                return self._idle.pop()
        for _ in self._config.servers[1:]:
            with suppress(OSError, TException):
                return self._connect(timeout_s)
        return self._connect(timeout_s)

    def _connect(self, timeout_s: float) -> Connection:
        """Connects to the next server in turn."""
        config = self._config
        host, port = config.servers[next(self._next) % len(config.servers)]
        return happybase.Connection(
            host, port, int(1000 * timeout_s), transport=config.transport, protocol=config.protocol
        )

    def close(self) -> None:
        """Closes idle connections; one in use is closed when its call ends."""
        with self._lock:
            self._closed, idle, self._idle = True, self._idle, []
        for connection in idle:
            _close(connection)


def _is_transient(error: BaseException) -> bool:
    """Whether a retry may succeed."""
    return isinstance(error, OSError | TException) and not any(name in _message(error) for name in _PERMANENT)


def _message(error: BaseException) -> str:
    raw = getattr(error, "message", None) or str(error)
    text = raw.decode(errors="replace") if isinstance(raw, bytes) else str(raw)
    lines = [line.strip() for line in text.splitlines() if line.strip() and not line.lstrip().startswith("at ")]
    return (lines[0] if lines else type(error).__name__)[:500]


def _close(connection: Connection) -> None:
    with suppress(OSError, TException):
        connection.close()
