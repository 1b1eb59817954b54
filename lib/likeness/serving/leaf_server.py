"""A leaf as a server of its own: Arrow Flight, no pickle.   [flight]

A leaf loads what a root asks it to, so only the root knows which leaf has which shards.
"""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.micro_batching import BatchedLeaf
from likeness.serving.wire import from_answer, from_samples, from_ticket

_KEPT = 3
"""Builds that a leaf holds: the one in service, the one before or after it, and one that is looked at."""
_TOKEN = 16


class LeafServer(fl.FlightServerBase):  # type: ignore[misc]
    """Answers about shards of builds that it was asked to prepare; listens as soon as it is made."""

    def __init__(self, builds: Builds, host: str, port: int, token: str = "", say: Callable[[str], None] = print):
        """Listens on `grpc://host:port`; with a token, callers have to know it.

        Raises:
            ServiceError: it cannot listen there.
        """
        self._builds, self._say = builds, say
        self._loaded: dict[str, tuple[frozenset[int], BatchedLeaf]] = {}  # by build, the last used at the end
        self._loading, self._guard = threading.Lock(), threading.Lock()
        middleware = {"token": _Doorkeeper(token)} if token else None
        try:
            super().__init__(f"grpc://{host}:{port}", middleware=middleware)
        except (OSError, pa.ArrowException) as error:
            raise ServiceError(f"--listen {host}:{port}: {error}; name another address") from None

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Hits of the queries in a ticket, or a sample of vectors: the ticket says which."""
        asked, queries = from_ticket(ticket.ticket)
        leaf = self._of(asked["build"])[1]
        if asked["what"] == "samples":
            return fl.RecordBatchStream(from_samples(leaf.samples(asked["rows"], asked["shards"])))
        shards = frozenset(asked["shards"])
        try:
            answer = leaf.search(queries, asked["k"], asked["space"], asked["categories"], shards)
        except LikenessError as error:
            raise fl.FlightServerError(str(error)) from None
        return fl.RecordBatchStream(from_answer(answer))

    def do_action(self, context: Any, action: Any) -> Iterable[bytes]:
        """`prepare` shards of a build, `status`, `shown` an image, `some` images: JSON in, JSON out."""
        asked = json.loads(action.body.to_pybytes() or b"{}")
        answers: dict[str, Callable[..., Any]] = {
            "prepare": self._prepare,
            "status": self._status,
            "shown": self._shown,
            "some": self._some,
        }
        if action.type not in answers:
            raise fl.FlightServerError(f"no action {action.type!r}")
        return [json.dumps(answers[action.type](**asked)).encode()]

    def _prepare(self, build: str, shards: Sequence[int]) -> dict[str, Any]:
        with self._loading:
            held = self._loaded.get(build)
            wanted = frozenset(shards) | (held[0] if held else frozenset())
            if held is None or held[0] != wanted:
                begun = time.monotonic()
                try:
                    leaf = Leaf(self._builds, self._builds.read(build), wanted)
                    leaf.warm()
                except (LikenessError, OSError) as error:
                    raise fl.FlightServerError(str(error)) from None
                with self._guard:
                    self._loaded.pop(build, None)
                    self._loaded[build] = wanted, BatchedLeaf(leaf)
                    while len(self._loaded) > _KEPT:
                        del self._loaded[next(iter(self._loaded))]
                self._say(f"loaded {len(wanted)} shards of {build} in {time.monotonic() - begun:.1f} s")
        return self._status()

    def _status(self) -> dict[str, Any]:
        with self._guard:
            return {"loaded": {build: sorted(held[0]) for build, held in self._loaded.items()}}

    def _shown(self, build: str, image_id: str) -> dict[str, Any] | None:
        hit = self._of(build)[1].shown(image_id)
        return vars(hit) if hit else None

    def _some(self, build: str, count: int) -> list[dict[str, Any]]:
        return [vars(hit) for hit in self._of(build)[1].some(count)]

    def _of(self, build: str) -> tuple[frozenset[int], BatchedLeaf]:
        with self._guard:
            if build not in self._loaded:
                raise fl.FlightUnavailableError(f"{build} is not loaded")
            held = self._loaded[build] = self._loaded.pop(build)
            return held


def read_token(file: str) -> str:
    """The secret in a file (serve.leaf_token); empty without one.

    Raises:
        UsageError: the file cannot be read, or holds none.
    """
    if not file:
        return ""
    try:
        token = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"serve.leaf_token: {file} cannot be read: {error}") from None
    if not token.isascii() or len(token) < _TOKEN:
        raise UsageError(f"serve.leaf_token: {file} holds no secret of {_TOKEN} or more ASCII characters")
    return token


class _Doorkeeper(fl.ServerMiddlewareFactory):  # type: ignore[misc]
    """Turns away who does not know the token."""

    def __init__(self, token: str) -> None:
        self._expected = f"Bearer {token}".encode()

    def start_call(self, info: Any, headers: Mapping[str, Sequence[str]]) -> None:
        given = next(iter(headers.get("authorization", ())), "")
        if not hmac.compare_digest(given.encode(), self._expected):
            raise fl.FlightUnauthenticatedError("the token is another; see serve.leaf_token")
