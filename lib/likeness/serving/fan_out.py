"""Fan-out: one query to the leaves that hold a build's shards, one merged answer back before a deadline."""

import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field, replace
from typing import TypeVar

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Serve
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit, merge
from likeness.serving.leaf import LeafAnswer, LeafQuery, concatenate
from likeness.serving.leaf_client import LateError, RemoteLeaf
from likeness.serving.shard_placement import place

T = TypeVar("T")
_STATUS_S, _SAMPLES_S, _MAX_LATE = 2.0, 60.0, 2


@dataclass
class _Request:
    """A request to one leaf about some shards; `hedged` once replicas are asked as well."""

    leaf: RemoteLeaf
    shards: frozenset[int]
    first: bool
    hedged: bool = False


@dataclass
class _Gathered:
    """The answers of leaves so far, and the shards that failed by reason."""

    answers: list[tuple[frozenset[int], LeafAnswer]] = field(default_factory=list)
    failures: dict[str, set[int]] = field(default_factory=dict)

    @property
    def covered(self) -> frozenset[int]:
        return frozenset[int]().union(*(shards for shards, _ in self.answers))

    def fail(self, reason: str, shards: Collection[int]) -> None:
        """Notes why shards have not answered."""
        self.failures.setdefault(reason, set()).update(shards)

    def disjoint(self) -> list[LeafAnswer]:
        """Answers that have no shard in common, the largest first."""
        chosen, seen = [], frozenset[int]()
        for shards, answer in sorted(self.answers, key=lambda one: -len(one[0])):
            if not shards & seen:
                chosen.append(answer)
                seen |= shards
        return chosen

    def degraded(self, missing: frozenset[int]) -> list[str]:
        """A text for each reason why shards are missing."""
        return [
            f"{reason} ({'shard' if len(lost) == 1 else 'shards'} {', '.join(map(str, sorted(lost)))})"
            for reason, numbers in self.failures.items()
            if (lost := numbers & missing)
        ]


class FanOut:
    """The leaves of one build, behind the interface of a single leaf."""

    def __init__(
        self,
        manifest: Manifest,
        leaves: Sequence[RemoteLeaf],
        pool: ThreadPoolExecutor,
        settings: Serve,
        report: Callable[[str], None],
    ) -> None:
        self._manifest, self._pool, self._settings, self._report = manifest, pool, settings, report
        self._leaves = {leaf.address: leaf for leaf in leaves}
        numbers = {record.index.name: record.number for record in manifest.shards}
        placed = place(numbers, list(self._leaves), settings.replicas)
        self._places = {numbers[shard]: addresses for shard, addresses in placed.items()}
        self._ready: set[str] = set()
        self._late: dict[str, int] = {}
        self._preparing: dict[str, Future[None]] = {}

    @property
    def share(self) -> float:
        """The share of shards that have a ready leaf."""
        ready = [bool(self._ready & set(places)) for places in self._places.values()]
        return sum(ready) / len(ready) if ready else 1.0

    def prepare(self) -> None:
        """Has all leaves load their shards at once; returns when each is ready or has failed.

        Raises:
            ServiceError: no leaf is ready.
        """
        self._check_all()
        wait(self._preparing.values())
        self._collect_prepared()
        if not self._ready and self._places:
            raise ServiceError(f"no leaf is ready for {self._manifest.path}; asked: {', '.join(self._leaves)}")

    def refresh(self) -> None:
        """Checks which leaves answer, and has those that came back load their shards."""
        self._check_all()
        self._collect_prepared()

    def search(self, query: LeafQuery) -> LeafAnswer:
        """Asks one leaf for each shard, and once more a replica of a leaf that is late or fails.

        Never an error: shards without an answer are missing from the result, which says why.
        """
        deadline = time.monotonic() + self._settings.deadline_ms / 1000
        targets = self._select_shards(query.categories, query.shards)
        gathered, running = _Gathered(), dict[Future[LeafAnswer], _Request]()

        def send(numbers: Collection[int], failed: frozenset[str]) -> None:
            for address, shards in self._assign(numbers, failed).items():
                request, left = _Request(self._leaves[address], shards, not failed), deadline - time.monotonic()
                part = replace(query, shards=shards)
                running[self._pool.submit(request.leaf.search, self._manifest.path, part, left)] = request

        send(targets, frozenset())
        for number in targets.difference(*(request.shards for request in running.values())):
            gathered.fail(f"leaf {', '.join(self._places[number])}: not ready", [number])
        hedge = time.monotonic() + self._settings.hedge_ms / 1000
        while running and not targets <= gathered.covered and (now := time.monotonic()) < deadline:
            may_hedge = any(request.first and not request.hedged for request in running.values())
            done, _ = wait(running, max(0.0, min(deadline, hedge if may_hedge else deadline) - now), FIRST_COMPLETED)
            for future in done:
                request = running.pop(future)
                if not self._take(future, request, gathered) and request.first and not request.hedged:
                    send(request.shards - gathered.covered, frozenset({request.leaf.address}))
            if may_hedge and time.monotonic() >= hedge:
                for request in [request for request in running.values() if request.first and not request.hedged]:
                    request.hedged = True
                    send(request.shards, frozenset({request.leaf.address}))
        for request in running.values():
            reason = f"leaf {request.leaf.address}: no answer within {self._settings.deadline_ms} ms"
            gathered.fail(reason, request.shards)
        return _merge(gathered, targets, query)

    def sample_vectors(self, rows: int, shards: AbstractSet[int] | None = None) -> Mapping[str, np.ndarray]:
        """The part of a sample of the build that ready leaves hold, float32 (n, dim) by category."""
        path, assigned = self._manifest.path, self._assign(self._select_shards(None, shards))
        return concatenate(
            self._each(assigned, lambda leaf: leaf.sample_vectors(path, rows, assigned[leaf.address], _SAMPLES_S))
        )

    def lookup(self, image_id: str) -> Hit | None:
        """Looks up an image by its id in the shards of ready leaves; None if they do not hold it."""
        path, within_s = self._manifest.path, self._settings.deadline_ms / 1000
        assigned = self._assign(self._select_shards(None, None))
        return next(filter(None, self._each(assigned, lambda leaf: leaf.lookup(path, image_id, within_s))), None)

    def sample_hits(self, count: int) -> list[Hit]:
        """About `count` images, some of each ready leaf."""
        path, within_s = self._manifest.path, self._settings.deadline_ms / 1000
        assigned = self._assign(self._select_shards(None, None))
        share = -(-count // max(1, len(assigned)))
        parts = self._each(assigned, lambda leaf: leaf.sample_hits(path, share, within_s))
        return list({hit.image_id: hit for part in parts for hit in part}.values())[:count]

    def _each(self, addresses: Iterable[str], ask: Callable[[RemoteLeaf], T]) -> Iterator[T]:
        """What each leaf answers; goes on without one that does not. One that is only late stays ready."""
        for address in addresses:
            try:
                answer = ask(self._leaves[address])
            except LateError as error:
                self._report(str(error))
            except ServiceError as error:
                self._mark_lost(address, error)
            else:
                yield answer

    def _select_shards(self, categories: AbstractSet[str] | None, shards: AbstractSet[int] | None) -> frozenset[int]:
        """Numbers of the shards of some categories (all if None), out of `shards` (all if None)."""
        return frozenset(
            record.number
            for record in self._manifest.shards
            if (categories is None or not categories.isdisjoint(record.categories))
            and (shards is None or record.number in shards)
        )

    def _assign(self, shards: Collection[int], failed: frozenset[str] = frozenset()) -> dict[str, frozenset[int]]:
        """The shards to ask each leaf for: of the leaves that hold a shard the first one that is ready.

        Once a leaf has failed, a replica that may not be ready is better than none.
        """
        assigned: dict[str, set[int]] = {}
        for number in sorted(shards):
            left = [address for address in self._places[number] if address not in failed]
            fallback = left[0] if failed and left else None
            chosen = next((address for address in left if address in self._ready), fallback)
            if chosen:
                assigned.setdefault(chosen, set()).add(number)
        return {address: frozenset(numbers) for address, numbers in assigned.items()}

    def _take(self, future: Future[LeafAnswer], request: _Request, gathered: _Gathered) -> bool:
        """Notes the answer to a request, or why there is none; whether there is one."""
        try:
            gathered.answers.append((request.shards, future.result()))
            return True
        except ServiceError as error:
            gathered.fail(str(error), request.shards)
            if not isinstance(error, LateError):  # a leaf that is late once may answer the next query in time
                self._mark_lost(request.leaf.address, error)
            return False

    def _check_all(self) -> None:
        """Asks every leaf for its status; has those that lack shards load them, each in a thread."""
        pending = {name: self._pool.submit(leaf.status, _STATUS_S) for name, leaf in self._leaves.items()}
        for name, future in pending.items():
            shards = frozenset(number for number, places in self._places.items() if name in places)
            try:
                loaded = future.result().get(self._manifest.path, frozenset())
            except ServiceError as error:
                self._late[name] = self._late.get(name, 0) + 1
                if not isinstance(error, LateError) or self._late[name] >= _MAX_LATE:
                    self._mark_lost(name, error)
                continue
            self._late[name] = 0
            if shards <= loaded:
                self._ready.add(name)
            elif name not in self._preparing:
                self._ready.discard(name)
                self._preparing[name] = self._pool.submit(self._leaves[name].prepare, self._manifest.path, shards)

    def _collect_prepared(self) -> None:
        """Marks leaves as ready that have finished loading."""
        for name, future in list(self._preparing.items()):
            if future.done():
                del self._preparing[name]
                error = future.exception()
                if error is None:
                    self._ready.add(name)
                    self._report(f"leaf {name}: ready for {self._manifest.path}")
                else:
                    self._report(f"{error}")

    def _mark_lost(self, address: str, error: ServiceError) -> None:
        """Sends a leaf that failed no more queries until it answers a status request."""
        if address in self._ready:
            self._report(str(error))
        self._ready.discard(address)
        self._leaves[address].disconnect()


def _merge(gathered: _Gathered, targets: frozenset[int], query: LeafQuery) -> LeafAnswer:
    chosen = gathered.disjoint()
    hits = [merge((answer.hits[number] for answer in chosen), query.k) for number in range(len(query.vectors))]
    shards = sorted(number for answer in chosen for number in answer.shards)
    degraded = gathered.degraded(targets - gathered.covered)
    return LeafAnswer(shards, sum(answer.searched for answer in chosen), hits, degraded)
