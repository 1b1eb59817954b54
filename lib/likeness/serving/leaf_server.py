"""Server of a leaf in a process of its own: Arrow Flight, no pickle.   [flight]

A leaf loads the shards that a root asks it to load, so only the root knows which leaf holds which shards.
"""

import hmac
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf, LeafQuery
from likeness.serving.wire import NO_VECTORS, from_hits, pack, unpack

_KEPT = 3
"""Builds of a space that a leaf keeps: the one in service, the one before or after it, and one named by a query."""
_MIN_TOKEN = 16


class LeafServer(fl.FlightServerBase):  # type: ignore[misc]
    """Answers about the shards that it was asked to prepare; listens as soon as it is constructed."""

    def __init__(self, builds: Builds, host: str, port: int, token: str = "", report: Callable[[str], None] = print):
        """Listens on `grpc://host:port`; with a token, callers must send it.

        Raises:
            ServiceError: the address cannot be listened on.
        """
        self._builds, self._report = builds, report
        self._loaded: dict[str, Leaf] = {}  # by build, the last used at the end
        self._loading, self._lock = threading.Lock(), threading.Lock()
        middleware = {"token": _TokenCheck(token)} if token else None
        try:
            super().__init__(f"grpc://{host}:{port}", middleware=middleware)
        except (OSError, pa.ArrowException) as error:
            raise ServiceError(f"--listen {host}:{port}: {error}; name another address") from None

    def do_action(self, context: Any, action: Any) -> Iterable[bytes]:
        """Answers a call of `RemoteLeaf`: arguments in and result out as `wire` packs them."""
        fields, vectors = unpack(action.body.to_pybytes())
        arguments = {name: frozenset(value) if isinstance(value, list) else value for name, value in fields.items()}
        actions: dict[str, Callable[..., bytes]] = {
            "prepare": self._prepare,
            "status": self._status,
            "search": lambda build, **query: self._search(build, LeafQuery(vectors, **query), context.is_cancelled),
            "sample_vectors": self._sample_vectors,
            "lookup": self._lookup,
            "sample_hits": lambda build, count: pack({"hits": from_hits(self._leaf(build).sample_hits(count))}),
        }
        if action.type not in actions:
            raise fl.FlightServerError(f"no action {action.type!r}")
        try:
            return [actions[action.type](**arguments)]
        except CancelledError as error:  # the root's deadline has passed
            raise fl.FlightCancelledError(str(error)) from None
        except (LikenessError, OSError) as error:
            raise fl.FlightServerError(str(error)) from None

    def _search(self, build: str, query: LeafQuery, cancelled: Callable[[], bool]) -> bytes:
        answer = self._leaf(build).search(query, cancelled)
        return pack(vars(answer) | {"hits": list(map(from_hits, answer.hits))})

    def _sample_vectors(self, build: str, rows: int, shards: frozenset[int]) -> bytes:
        """The vectors of all categories, with the number of each."""
        samples = self._leaf(build).sample_vectors(rows, shards)
        sizes = {name: len(vectors) for name, vectors in samples.items()}
        return pack({"sizes": sizes}, np.concatenate([*samples.values()]) if samples else NO_VECTORS)

    def _lookup(self, build: str, image_id: str) -> bytes:
        hit = self._leaf(build).lookup(image_id)
        return pack({"hits": from_hits([hit] if hit else [])})

    def _prepare(self, build: str, shards: frozenset[int]) -> bytes:
        with self._loading:
            loaded = self._loaded.get(build)
            numbers = shards | (loaded.numbers if loaded else frozenset())
            if loaded is None or loaded.numbers != numbers:
                start = time.monotonic()
                leaf = Leaf(self._builds, self._builds.read(build), numbers)
                leaf.warm()
                self._keep(build, leaf)
                self._report(f"loaded {len(numbers)} shards of {build} in {time.monotonic() - start:.1f} s")
        return self._status()

    def _keep(self, build: str, leaf: Leaf) -> None:
        """Keeps a build's shards; forgets those of its space that were not used for longest, if they are too many."""
        space = build.partition("/")[0]
        with self._lock:
            self._loaded.pop(build, None)
            self._loaded[build] = leaf
            same_space = [name for name in self._loaded if name.partition("/")[0] == space]
            for name in same_space[:-_KEPT]:
                del self._loaded[name]

    def _status(self) -> bytes:
        with self._lock:
            return pack({"loaded": {build: leaf.numbers for build, leaf in self._loaded.items()}})

    def _leaf(self, build: str) -> Leaf:
        with self._lock:
            if build not in self._loaded:
                raise fl.FlightUnavailableError(f"{build} is not loaded")
            self._loaded[build] = self._loaded.pop(build)
            return self._loaded[build]


def read_token(file: str) -> str:
    """Reads the secret in a file (serve.leaf_token); empty without a file.

    Raises:
        UsageError: the file cannot be read, or holds no secret.
    """
    if not file:
        return ""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"serve.leaf_token: {file} cannot be read: {error}") from None
    if not token.isascii() or len(token) < _MIN_TOKEN:
        raise UsageError(f"serve.leaf_token: {file} holds no secret of {_MIN_TOKEN} or more ASCII characters")
    return token


class _TokenCheck(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Refuses callers that do not send the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: Any, headers: Mapping[str, Sequence[str]]) -> None:
        sent = next(iter(headers.get("authorization", ())), "")
        if not hmac.compare_digest(sent.encode(), self._expected):
            raise fl.FlightUnauthenticatedError("the token is another; see serve.leaf_token")
