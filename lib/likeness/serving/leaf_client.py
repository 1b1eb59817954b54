"""Client of a leaf in another process.   [flight]"""

import threading
from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import ServiceError
from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.wire import NO_VECTORS, pack, to_hits, unpack

T = TypeVar("T")
_PREPARE_S = 3600.0
_CALLS = 32
"""Calls of one leaf at a time. Each leaf has its own threads, so that one that hangs takes none from the others."""


class LateError(ServiceError):
    """A leaf did not answer in time."""


class RemoteLeaf:
    """One leaf at an address. Every call ends in time, with an answer or a ServiceError."""

    def __init__(self, address: str, token: str = "") -> None:
        """Names a leaf, HOST:PORT; connects on the first call."""
        self.address = address
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self._headers, self._lock = headers, threading.Lock()
        self._client: Any = None
        self._pool = ThreadPoolExecutor(_CALLS, f"leaf {address}")

    def start(self, call: Callable[..., T], *args: Any) -> Future[T]:
        """Starts a call of this leaf in one of its threads; ServiceError ends it as it would end the call."""
        return self._pool.submit(call, *args)

    def close(self) -> None:
        """Drops the calls that have not begun, and ends the threads."""
        self._pool.shutdown(wait=False, cancel_futures=True)

    def status(self, within_s: float) -> Mapping[str, frozenset[int]]:
        """The shards that the leaf has loaded, by build."""
        fields, _ = self._act("status", within_s)
        return {build: frozenset(shards) for build, shards in fields["loaded"].items()}

    def prepare(self, build: str, shards: AbstractSet[int]) -> None:
        """Loads shards of a build (`space/build`) beside those loaded already; returns when they are warm."""
        self._act("prepare", _PREPARE_S, build=build, shards=shards)

    def search(self, build: str, query: LeafQuery, within_s: float) -> LeafAnswer:
        """The k nearest images of each query, in shards that the leaf has prepared."""
        fields, _ = self._act("search", within_s, build=build, **vars(query))
        return LeafAnswer(fields["shards"], fields["searched"], [to_hits(hits) for hits in fields["hits"]])

    def sample_vectors(self, build: str, rows: int, shards: AbstractSet[int], within_s: float) -> dict[str, np.ndarray]:
        """The leaf's part of a sample of the build's vectors, float32 (n, dim) by category."""
        fields, vectors = self._act("sample_vectors", within_s, build=build, rows=rows, shards=shards)
        sizes = fields["sizes"]
        return dict(zip(sizes, np.split(vectors, np.cumsum([*sizes.values()], dtype=int)), strict=False))

    def lookup(self, build: str, image_id: str, within_s: float) -> Hit | None:
        """Looks up an image by its id; None if the leaf's shards do not hold it."""
        fields, _ = self._act("lookup", within_s, build=build, image_id=image_id)
        return next(iter(to_hits(fields["hits"])), None)

    def sample_hits(self, build: str, count: int, within_s: float) -> list[Hit]:
        """About `count` images, some of each shard."""
        return to_hits(self._act("sample_hits", within_s, build=build, count=count)[0]["hits"])

    def disconnect(self) -> None:
        """Ends the connection; the next call makes a new one without the old one's back-off."""
        with self._lock:
            self._client = None

    def _connected(self) -> Any:
        with self._lock:
            if self._client is None:
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000)]
                self._client = fl.connect(f"grpc://{self.address}", generic_options=options)
            return self._client

    def _act(
        self, name: str, within_s: float, vectors: np.ndarray = NO_VECTORS, **fields: Any
    ) -> tuple[dict[str, Any], np.ndarray]:
        """Fields and vectors of the result of an action of `LeafServer`."""
        options = fl.FlightCallOptions(timeout=max(within_s, 0.001), headers=self._headers)
        try:
            (result,) = self._connected().do_action((name, pack(fields, vectors)), options)
        except fl.FlightTimedOutError:
            raise LateError(f"leaf {self.address}: no answer within {1000 * within_s:.0f} ms") from None
        except (pa.ArrowException, OSError, ValueError) as error:
            raise ServiceError(f"leaf {self.address}: {str(error).partition('. gRPC')[0]}") from None
        return unpack(result.body.to_pybytes())
