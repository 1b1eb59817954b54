"""Client of a leaf in another process.   [flight]"""

import json
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import ServiceError
from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer, LeafQuery
from likeness.serving.wire import SampleTicket, SearchTicket, to_answer, to_hit, to_samples

_PREPARE_S = 3600.0


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

    def status(self, within_s: float) -> Mapping[str, frozenset[int]]:
        """The shards that the leaf has loaded, by build."""
        return {build: frozenset(shards) for build, shards in self._act("status", within_s)["loaded"].items()}

    def prepare(self, build: str, shards: Collection[int]) -> None:
        """Loads shards of a build (`space/build`) beside those loaded already; returns when they are warm."""
        self._act("prepare", _PREPARE_S, build=build, shards=sorted(shards))

    def search(self, build: str, query: LeafQuery, within_s: float) -> LeafAnswer:
        """The k nearest images of each query, in shards that the leaf has prepared."""
        return to_answer(self._get(SearchTicket(build, query).to_bytes(), within_s))

    def sample_vectors(self, build: str, rows: int, shards: Collection[int], within_s: float) -> dict[str, np.ndarray]:
        """The leaf's part of a sample of the build's vectors, float32 (n, dim) by category."""
        return to_samples(self._get(SampleTicket(build, rows, sorted(shards)).to_bytes(), within_s))

    def lookup(self, build: str, image_id: str, within_s: float) -> Hit | None:
        """Looks up an image by its id; None if the leaf's shards do not hold it."""
        hit = self._act("lookup", within_s, build=build, image_id=image_id)
        return to_hit(hit) if hit else None

    def sample_hits(self, build: str, count: int, within_s: float) -> list[Hit]:
        """About `count` images, some of each shard."""
        return [to_hit(hit) for hit in self._act("sample_hits", within_s, build=build, count=count)]

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

    def _options(self, within_s: float) -> Any:
        return fl.FlightCallOptions(timeout=max(within_s, 0.001), headers=self._headers)

    def _act(self, name: str, within_s: float, **arguments: Any) -> Any:
        try:
            body = json.dumps(arguments).encode()
            (result,) = self._connected().do_action((name, body), self._options(within_s))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._service_error(error, within_s) from None
        return json.loads(result.body.to_pybytes())

    def _get(self, ticket: bytes, within_s: float) -> pa.Table:
        try:
            return self._connected().do_get(fl.Ticket(ticket), self._options(within_s)).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._service_error(error, within_s) from None

    def _service_error(self, error: Exception, within_s: float) -> ServiceError:
        if isinstance(error, fl.FlightTimedOutError):
            return LateError(f"leaf {self.address}: no answer within {1000 * within_s:.0f} ms")
        return ServiceError(f"leaf {self.address}: {str(error).partition('. gRPC')[0]}")
