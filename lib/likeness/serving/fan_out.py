"""Fan-out: one query to the leaves that hold a build's shards, one merged answer back before a deadline."""

import time
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, as_completed, wait
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
    """A request to one leaf about some shards; `replaceable` until replicas are asked as well."""

    leaf: RemoteLeaf
    shards: frozenset[int]
    replaceable: bool


@dataclass
class _Gathered:
    """The answers of leaves so far, and the shards that failed by reason."""

    answers: list[tuple[frozenset[int], LeafAnswer]] = field(default_factory=list)
    failures: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def covered(self) -> frozenset[int]:
        return frozenset[int]().union(*(shards for shards, _ in self.answers))

    def merged(self, targets: frozenset[int], query: LeafQuery) -> LeafAnswer:
        """The answers that have no shard in common, the largest first, as one; it says why shards are missing."""
        chosen, seen = list[LeafAnswer](), frozenset[int]()
        for shards, answer in sorted(self.answers, key=lambda one: -len(one[0])):
            if not shards & seen:
                chosen.append(answer)
                seen |= shards
        hits = [merge((answer.hits[number] for answer in chosen), query.k) for number in range(len(query.vectors))]
        degraded = [
            f"{reason} ({'shard' if len(lost) == 1 else 'shards'} {', '.join(map(str, sorted(lost)))})"
            for reason, numbers in self.failures.items()
            if (lost := numbers & (targets - self.covered))
        ]
        answered = sorted(number for answer in chosen for number in answer.shards)
        return LeafAnswer(answered, sum(answer.searched for answer in chosen), hits, degraded)


class FanOut:
    """The leaves of one build, behind the interface of a single leaf."""

    def __init__(
        self,
        manifest: Manifest,
        leaves: Sequence[RemoteLeaf],
        settings: Serve,
        report: Callable[[str], None],
    ) -> None:
        self._manifest, self._settings, self._report = manifest, settings, report
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
        self.refresh(patient=True)
        if not self._ready and self._places:
            raise ServiceError(f"no leaf is ready for {self._manifest.path}; asked: {', '.join(self._leaves)}")

    def refresh(self, patient: bool = False) -> None:
        """Checks which leaves answer, and has those that came back load their shards; `patient`: waits for them."""
        self._check_all()
        finished, _ = wait(self._preparing.values(), None if patient else 0)
        for name, future in [one for one in self._preparing.items() if one[1] in finished]:
            del self._preparing[name]
            if error := future.exception():
                self._report(str(error))
            else:
                self._ready.add(name)
                self._report(f"leaf {name}: ready for {self._manifest.path}")

    def search(self, query: LeafQuery) -> LeafAnswer:
        """Asks one leaf for each shard, and once more a replica of a leaf that is late or fails.

        Never an error: shards without an answer are missing from the result, which says why.
        """
        deadline = time.monotonic() + self._settings.deadline_ms / 1000
        targets = frozenset(record.number for record in self._manifest.shards if query.covers(record))
        gathered, running = _Gathered(), dict[Future[LeafAnswer], _Request]()

        def send(numbers: Iterable[int], failed: frozenset[str] = frozenset()) -> None:
            for address, shards in self._assign(numbers, failed).items():
                request = _Request(self._leaves[address], shards, not failed)
                part = replace(query, shards=shards)
                running[request.leaf.start(self._search_leaf, request.leaf, part, deadline)] = request

        send(targets)
        for number in targets.difference(*(request.shards for request in running.values())):
            gathered.failures[f"leaf {', '.join(self._places[number])}: not ready"].add(number)
        hedge = time.monotonic() + self._settings.hedge_ms / 1000
        while running and not targets <= gathered.covered and (now := time.monotonic()) < deadline:
            until = hedge if any(request.replaceable for request in running.values()) else deadline
            done, _ = wait(running, max(0.0, min(deadline, until) - now), FIRST_COMPLETED)
            finished = [(future, running.pop(future)) for future in done]
            failed = [request for future, request in finished if not self._take(future, request, gathered)]
            late = running.values() if time.monotonic() >= hedge else ()
            for request in [*failed, *late]:
                if request.replaceable:
                    request.replaceable = False
                    send(request.shards - gathered.covered, frozenset({request.leaf.address}))
        for future, request in running.items():
            future.cancel()  # one that waits for a thread; the others end with the deadline, here and in the leaf
            gathered.failures[self._late_reason(request.leaf)] |= request.shards
        return gathered.merged(targets, query)

    def _search_leaf(self, leaf: RemoteLeaf, query: LeafQuery, deadline: float) -> LeafAnswer:
        left = deadline - time.monotonic()
        if left <= 0:
            raise LateError(self._late_reason(leaf))
        return leaf.search(self._manifest.path, query, left)

    def _late_reason(self, leaf: RemoteLeaf) -> str:
        return f"leaf {leaf.address}: no answer within {self._settings.deadline_ms} ms"

    def sample_vectors(self, rows: int) -> Mapping[str, np.ndarray]:
        """The part of a sample of the build that ready leaves hold, float32 (n, dim) by category."""
        path, assigned = self._manifest.path, self._assign(self._places)
        parts = self._each(assigned, lambda leaf: leaf.sample_vectors(path, rows, assigned[leaf.address], _SAMPLES_S))
        return concatenate(parts.values())

    def lookup(self, image_id: str) -> Hit | None:
        """Looks up an image by its id in the shards of ready leaves; None if they do not hold it."""
        path, within_s = self._manifest.path, self._settings.deadline_ms / 1000
        answers = self._ask(self._assign(self._places), lambda leaf: leaf.lookup(path, image_id, within_s))
        return next((hit for _, hit in answers if hit), None)

    def sample_hits(self, count: int) -> list[Hit]:
        """About `count` images, some of each ready leaf."""
        path, within_s = self._manifest.path, self._settings.deadline_ms / 1000
        assigned = self._assign(self._places)
        share = -(-count // max(1, len(assigned)))
        parts = self._each(assigned, lambda leaf: leaf.sample_hits(path, share, within_s))
        return list({hit.image_id: hit for part in parts.values() for hit in part}.values())[:count]

    def _each(self, addresses: Collection[str], ask: Callable[[RemoteLeaf], T]) -> dict[str, T]:
        """The answers of leaves, in the order of their addresses; see `_ask`."""
        answers = dict(self._ask(addresses, ask))
        return {address: answers[address] for address in addresses if address in answers}

    def _ask(self, addresses: Iterable[str], ask: Callable[[RemoteLeaf], T]) -> Iterator[tuple[str, T]]:
        """Asks leaves all at once; their addresses and answers, the first to answer first.

        Goes on without one that does not answer. One that is only late stays ready.
        """
        running = {self._leaves[address].start(ask, self._leaves[address]): address for address in addresses}
        for future in as_completed(running):
            try:
                answer = future.result()
            except LateError as error:
                self._report(str(error))
            except ServiceError as error:
                self._mark_lost(running[future], error)
            else:
                yield running[future], answer

    def _assign(self, shards: Iterable[int], failed: frozenset[str] = frozenset()) -> dict[str, frozenset[int]]:
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
            gathered.failures[str(error)] |= request.shards
            if not isinstance(error, LateError):  # a leaf that is late once may answer the next query in time
                self._mark_lost(request.leaf.address, error)
            return False

    def _check_all(self) -> None:
        """Asks every leaf for its status; has those that lack shards load them, each in a thread."""
        pending = {name: leaf.start(leaf.status, _STATUS_S) for name, leaf in self._leaves.items()}
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
                self._preparing[name] = self._leaves[name].start(
                    self._leaves[name].prepare, self._manifest.path, shards
                )

    def _mark_lost(self, address: str, error: ServiceError) -> None:
        """Sends a leaf that failed no more queries until it answers a status request."""
        if address in self._ready:
            self._report(str(error))
        self._ready.discard(address)
        self._leaves[address].disconnect()
