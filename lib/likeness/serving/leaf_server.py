"""Server of a leaf in a process of its own: Arrow Flight, no pickle.   [flight]

A leaf loads the shards that a root asks it to load, so only the root knows which leaf holds which shards.
"""

import hmac
import json
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.flight as fl

from likeness.core.errors import LikenessError, ServiceError, UsageError
from likeness.index.builds import Builds
from likeness.serving.leaf import Leaf
from likeness.serving.micro_batching import BatchedLeaf
from likeness.serving.wire import SampleTicket, from_answer, from_samples, from_ticket

_KEPT = 3
"""Builds of a space that a leaf keeps: the one in service, the one before or after it, and one named by a query."""
_MIN_TOKEN = 16


@dataclass(frozen=True)
class _Loaded:
    """Loaded shards of a build, by number."""

    shards: frozenset[int]
    leaf: BatchedLeaf


class LeafServer(fl.FlightServerBase):  # type: ignore[misc]
    """Answers about the shards that it was asked to prepare; listens as soon as it is constructed."""

    def __init__(self, builds: Builds, host: str, port: int, token: str = "", report: Callable[[str], None] = print):
        """Listens on `grpc://host:port`; with a token, callers must send it.

        Raises:
            ServiceError: the address cannot be listened on.
        """
        self._builds, self._report = builds, report
        self._loaded: dict[str, _Loaded] = {}  # by build, the last used at the end
        self._loading, self._lock = threading.Lock(), threading.Lock()
        middleware = {"token": _TokenCheck(token)} if token else None
        try:
            super().__init__(f"grpc://{host}:{port}", middleware=middleware)
        except (OSError, pa.ArrowException) as error:
            raise ServiceError(f"--listen {host}:{port}: {error}; name another address") from None

    def do_get(self, context: Any, ticket: Any) -> Any:
        """Answers a ticket: the hits of a search, or a sample of vectors."""
        request = from_ticket(ticket.ticket)
        leaf = self._leaf(request.build)
        if isinstance(request, SampleTicket):
            return fl.RecordBatchStream(from_samples(leaf.sample_vectors(request.rows, frozenset(request.shards))))
        try:
            return fl.RecordBatchStream(from_answer(leaf.search(request.query)))
        except LikenessError as error:
            raise fl.FlightServerError(str(error)) from None

    def do_action(self, context: Any, action: Any) -> Iterable[bytes]:
        """Runs `prepare`, `status`, `lookup` or `sample_hits`: arguments in and result out as JSON."""
        arguments = json.loads(action.body.to_pybytes() or b"{}")
        actions: dict[str, Callable[..., Any]] = {
            "prepare": self._prepare,
            "status": self._status,
            "lookup": lambda build, image_id: (hit := self._leaf(build).lookup(image_id)) and vars(hit),
            "sample_hits": lambda build, count: [vars(hit) for hit in self._leaf(build).sample_hits(count)],
        }
        if action.type not in actions:
            raise fl.FlightServerError(f"no action {action.type!r}")
        return [json.dumps(actions[action.type](**arguments)).encode()]

    def _prepare(self, build: str, shards: Sequence[int]) -> dict[str, dict[str, list[int]]]:
        with self._loading:
            loaded = self._loaded.get(build)
            numbers = frozenset(shards) | (loaded.shards if loaded else frozenset())
            if loaded is None or loaded.shards != numbers:
                start = time.monotonic()
                try:
                    leaf = Leaf(self._builds, self._builds.read(build), numbers)
                    leaf.warm()
                except (LikenessError, OSError) as error:
                    raise fl.FlightServerError(str(error)) from None
                self._keep(build, _Loaded(numbers, BatchedLeaf(leaf)))
                self._report(f"loaded {len(numbers)} shards of {build} in {time.monotonic() - start:.1f} s")
        return self._status()

    def _keep(self, build: str, loaded: _Loaded) -> None:
        """Keeps a build's shards; forgets those of its space that were not used for longest, if they are too many."""
        space = build.partition("/")[0]
        with self._lock:
            self._loaded.pop(build, None)
            self._loaded[build] = loaded
            same_space = [name for name in self._loaded if name.partition("/")[0] == space]
            for name in same_space[:-_KEPT]:
                del self._loaded[name]

    def _status(self) -> dict[str, dict[str, list[int]]]:
        with self._lock:
            return {"loaded": {build: sorted(loaded.shards) for build, loaded in self._loaded.items()}}

    def _leaf(self, build: str) -> BatchedLeaf:
        with self._lock:
            if build not in self._loaded:
                raise fl.FlightUnavailableError(f"{build} is not loaded")
            loaded = self._loaded[build] = self._loaded.pop(build)
            return loaded.leaf


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
