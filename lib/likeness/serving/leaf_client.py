"""A leaf in another process, as a root holds it.   [flight]"""

import json
import threading
from collections.abc import Collection, Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import ServiceError
from likeness.index.shard import Hit
from likeness.serving.leaf import LeafAnswer
from likeness.serving.wire import to_answer, to_hit, to_samples, to_ticket

_PREPARE_S = 3600.0


class LateError(ServiceError):
    """A leaf did not answer in time."""


class RemoteLeaf:
    """What a root holds of a leaf elsewhere. Every call ends in time, with an answer or a ServiceError."""

    def __init__(self, address: str, token: str = "") -> None:
        """Names a leaf, HOST:PORT; nothing is asked yet."""
        self.address = address
        headers = [(b"authorization", f"Bearer {token}".encode())] if token else []
        self._headers, self._guard = headers, threading.Lock()
        self._client: Any = None

    def status(self, within_s: float) -> Mapping[str, frozenset[int]]:
        """The shards that it has loaded, by build."""
        return {build: frozenset(shards) for build, shards in self._act("status", within_s)["loaded"].items()}

    def prepare(self, build: str, shards: Collection[int]) -> None:
        """Loads shards of a build (`space/build`), beside those that it has; returns when they are warm."""
        self._act("prepare", _PREPARE_S, build=build, shards=sorted(shards))

    def search(
        self,
        build: str,
        queries: np.ndarray,
        k: int,
        space: str,
        categories: Collection[str] | None,
        shards: Collection[int],
        within_s: float,
    ) -> LeafAnswer:
        """The k nearest of each query, float32 (q, dim), in shards that it has prepared."""
        named = None if categories is None else sorted(categories)
        asked = {"what": "search", "build": build, "k": k, "space": space, "categories": named}
        return to_answer(self._got(asked | {"shards": sorted(shards)}, within_s, queries))

    def samples(self, build: str, rows: int, shards: Collection[int], within_s: float) -> dict[str, np.ndarray]:
        """Its part of a sample of the build's vectors, float32 (n, dim) by category."""
        asked = {"what": "samples", "build": build, "rows": rows, "shards": sorted(shards)}
        return to_samples(self._got(asked, within_s))

    def shown(self, build: str, image_id: str, within_s: float) -> Hit | None:
        """An image that its shards show."""
        found = self._act("shown", within_s, build=build, image_id=image_id)
        return to_hit(found) if found else None

    def some(self, build: str, count: int, within_s: float) -> list[Hit]:
        """About so many images of its shards."""
        return [to_hit(one) for one in self._act("some", within_s, build=build, count=count)]

    def forget(self) -> None:
        """Ends the connection; the next call makes a new one, without waiting as the old one might."""
        with self._guard:
            self._client = None

    def _connected(self) -> Any:
        with self._guard:
            if self._client is None:
                options = [("grpc.use_local_subchannel_pool", 1), ("grpc.max_reconnect_backoff_ms", 1000)]
                self._client = fl.connect(f"grpc://{self.address}", generic_options=options)
            return self._client

    def _options(self, within_s: float) -> Any:
        return fl.FlightCallOptions(timeout=max(within_s, 0.001), headers=self._headers)

    def _act(self, name: str, within_s: float, **asked: Any) -> Any:
        try:
            (result,) = self._connected().do_action((name, json.dumps(asked).encode()), self._options(within_s))
        except (pa.ArrowException, OSError, ValueError) as error:
            raise self._told(error, within_s) from None
        return json.loads(result.body.to_pybytes())

    def _got(self, asked: Mapping[str, Any], within_s: float, queries: np.ndarray | None = None) -> pa.Table:
        try:
            ticket = fl.Ticket(to_ticket(asked, queries))
            return self._connected().do_get(ticket, self._options(within_s)).read_all()
        except (pa.ArrowException, OSError) as error:
            raise self._told(error, within_s) from None

    def _told(self, error: Exception, within_s: float) -> ServiceError:
        if isinstance(error, fl.FlightTimedOutError):
            return LateError(f"leaf {self.address}: no answer within {1000 * within_s:.0f} ms")
        return ServiceError(f"leaf {self.address}: {str(error).partition('. gRPC')[0]}")
