"""Many leaves as one: which has which shard, whom to ask, and whom to ask in its place. Every answer comes in time."""

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Serve
from likeness.index.manifest import Manifest
from likeness.index.shard import Hit, merge
from likeness.serving.leaf import LeafAnswer
from likeness.serving.leaf_client import LateError, RemoteLeaf
from likeness.serving.shard_placement import place

_STATUS_S, _SAMPLES_S, _LATE_LOOKS = 2.0, 60.0, 2


@dataclass
class _Ask:
    """A question to one leaf about some shards; `hedged` once others are asked as well."""

    leaf: RemoteLeaf
    shards: frozenset[int]
    first: bool
    hedged: bool = False


@dataclass
class _Sought:
    """How far a query is: what leaves have answered, and why others have not."""

    answers: list[tuple[frozenset[int], LeafAnswer]] = field(default_factory=list)
    failed: dict[str, set[int]] = field(default_factory=dict)

    @property
    def covered(self) -> frozenset[int]:
        return frozenset[int]().union(*(shards for shards, _ in self.answers))

    def chosen(self) -> list[LeafAnswer]:
        """Answers that have no shard in common, the largest first."""
        found, seen = [], frozenset[int]()
        for shards, answer in sorted(self.answers, key=lambda one: -len(one[0])):
            if not shards & seen:
                found.append(answer)
                seen |= shards
        return found


class FanOut:
    """The leaves of one build."""

    def __init__(
        self,
        manifest: Manifest,
        leaves: Sequence[RemoteLeaf],
        pool: ThreadPoolExecutor,
        settings: Serve,
        say: Callable[[str], None],
    ) -> None:
        self._manifest, self._pool, self._settings, self._say = manifest, pool, settings, say
        self._leaves = {leaf.address: leaf for leaf in leaves}
        numbers = {record.index.name: record.number for record in manifest.shards}
        placed = place(numbers, list(self._leaves), settings.replicas)
        self._places = {numbers[shard]: addresses for shard, addresses in placed.items()}
        self._ready: set[str] = set()
        self._late: dict[str, int] = {}
        self._preparing: dict[str, Future[None]] = {}

    @property
    def share(self) -> float:
        """The share of shards that have a leaf that is ready."""
        ready = [bool(self._ready & set(places)) for places in self._places.values()]
        return sum(ready) / len(ready) if ready else 1.0

    def prepare(self) -> None:
        """Has the leaves load their shards, all at once; returns when each has, or has failed.

        Raises:
            ServiceError: none has.
        """
        self._tend_all()
        wait(self._preparing.values())
        self._gather()
        if not self._ready and self._places:
            raise ServiceError(f"no leaf is ready for {self._manifest.path}; asked: {', '.join(self._leaves)}")

    def tend(self) -> None:
        """Looks which leaves answer, and has those that came back load their shards."""
        self._tend_all()
        self._gather()

    def search(
        self,
        queries: np.ndarray,
        k: int,
        space: str,
        categories: Collection[str] | None,
        shards: Collection[int] | None = None,
    ) -> LeafAnswer:
        """Asks for each shard a leaf that has it; who is late or fails is asked about once more, at a replica.

        Never an error: shards that nobody answers for are missing from the answer, and it says why.
        """
        ends = time.monotonic() + self._settings.deadline_ms / 1000
        wanted = self._wanted(categories, shards)
        sought, running = _Sought(), dict[Future[LeafAnswer], _Ask]()

        def ask(numbers: Collection[int], without: frozenset[str]) -> None:
            for leaf, mine in self._assigned(numbers, without).items():
                ask = _Ask(self._leaves[leaf], mine, not without)
                left = ends - time.monotonic()
                arguments = (self._manifest.path, queries, k, space, categories, mine, left)
                running[self._pool.submit(ask.leaf.search, *arguments)] = ask

        ask(wanted, frozenset())
        for number in wanted.difference(*(one.shards for one in running.values())):
            sought.failed.setdefault(f"leaf {', '.join(self._places[number])}: not ready", set()).add(number)
        hedge = time.monotonic() + self._settings.hedge_ms / 1000
        while running and not wanted <= sought.covered and (now := time.monotonic()) < ends:
            waiting = any(one.first and not one.hedged for one in running.values())
            done, _ = wait(running, max(0.0, min(ends, hedge if waiting else ends) - now), FIRST_COMPLETED)
            for future in done:
                one = running.pop(future)
                try:
                    sought.answers.append((one.shards, future.result()))
                except ServiceError as error:
                    sought.failed.setdefault(str(error), set()).update(one.shards)
                    if not isinstance(error, LateError):  # who is late may be in time for the next
                        self._lost(one.leaf.address, error)
                    if one.first and not one.hedged:
                        ask(one.shards - sought.covered, frozenset({one.leaf.address}))
            if waiting and time.monotonic() >= hedge:
                for one in [one for one in running.values() if one.first and not one.hedged]:
                    one.hedged = True
                    ask(one.shards, frozenset({one.leaf.address}))
        return self._answer(sought, wanted, running.values(), len(queries), k)

    def samples(self, rows: int, shards: Collection[int] | None = None) -> Mapping[str, np.ndarray]:
        """What the leaves that are ready have of a sample of the build."""
        found: dict[str, list[np.ndarray]] = {}
        for leaf, mine in self._assigned(self._wanted(None, shards)).items():
            with self._losing(leaf):
                parts = self._leaves[leaf].samples(self._manifest.path, rows, mine, _SAMPLES_S)
                for category, vectors in parts.items():
                    found.setdefault(category, []).append(vectors)
        return {category: np.concatenate(parts) for category, parts in sorted(found.items())}

    def shown(self, image_id: str) -> Hit | None:
        """An image that the shards of a leaf that is ready show."""
        for leaf in self._assigned(self._wanted(None, None)):
            with self._losing(leaf):
                found = self._leaves[leaf].shown(self._manifest.path, image_id, self._settings.deadline_ms / 1000)
                if found:
                    return found
        return None

    def some(self, count: int) -> list[Hit]:
        """About so many images, of all leaves that are ready."""
        leaves, found = self._assigned(self._wanted(None, None)), dict[str, Hit]()
        for leaf in leaves:
            with self._losing(leaf):
                even, within_s = -(-count // len(leaves)), self._settings.deadline_ms / 1000
                some = self._leaves[leaf].some(self._manifest.path, even, within_s)
                found |= {hit.image_id: hit for hit in some}
        return list(found.values())[:count]

    def _wanted(self, categories: Collection[str] | None, shards: Collection[int] | None) -> frozenset[int]:
        named = None if categories is None else set(categories)
        return frozenset(
            record.number
            for record in self._manifest.shards
            if (named is None or named & record.categories.keys()) and (shards is None or record.number in shards)
        )

    def _assigned(self, shards: Collection[int], without: frozenset[str] = frozenset()) -> dict[str, frozenset[int]]:
        """By leaf the shards that it is asked about: the first of those that have them and are ready.

        Where another has failed already, one that is not known to be ready is better than none.
        """
        found: dict[str, set[int]] = {}
        for number in sorted(shards):
            left = [one for one in self._places[number] if one not in without]
            leaf = next((one for one in left if one in self._ready), left[0] if without and left else None)
            if leaf:
                found.setdefault(leaf, set()).add(number)
        return {leaf: frozenset(numbers) for leaf, numbers in found.items()}

    def _answer(
        self, sought: _Sought, wanted: frozenset[int], running: Collection[_Ask], queries: int, k: int
    ) -> LeafAnswer:
        chosen = sought.chosen()
        late = f"no answer within {self._settings.deadline_ms} ms"
        for one in running:
            sought.failed.setdefault(f"leaf {one.leaf.address}: {late}", set()).update(one.shards)
        missing = wanted - sought.covered
        degraded = [
            f"{told} ({'shard' if len(lost) == 1 else 'shards'} {', '.join(map(str, sorted(lost)))})"
            for told, numbers in sought.failed.items()
            if (lost := numbers & missing)
        ]
        hits = [merge((answer.hits[query] for answer in chosen), k) for query in range(queries)]
        shards = sorted(number for answer in chosen for number in answer.shards)
        return LeafAnswer(shards, sum(answer.searched for answer in chosen), hits, degraded)

    def _tend_all(self) -> None:
        """Asks every leaf how it is; who has not loaded its shards does so in a thread of its own."""
        asked = {name: self._pool.submit(leaf.status, _STATUS_S) for name, leaf in self._leaves.items()}
        for name, future in asked.items():
            mine = frozenset(number for number, places in self._places.items() if name in places)
            try:
                loaded = future.result().get(self._manifest.path, frozenset())
            except ServiceError as error:
                self._late[name] = self._late.get(name, 0) + 1
                if not isinstance(error, LateError) or self._late[name] >= _LATE_LOOKS:
                    self._lost(name, error)
                continue
            self._late[name] = 0
            if mine <= loaded:
                self._ready.add(name)
            elif name not in self._preparing:
                self._ready.discard(name)
                self._preparing[name] = self._pool.submit(self._leaves[name].prepare, self._manifest.path, mine)

    def _gather(self) -> None:
        """Takes in what has been prepared by now."""
        for name, future in list(self._preparing.items()):
            if future.done():
                del self._preparing[name]
                error = future.exception()
                if error is None:
                    self._ready.add(name)
                    self._say(f"leaf {name}: ready for {self._manifest.path}")
                else:
                    self._say(f"{error}")

    @contextmanager
    def _losing(self, leaf: str) -> Iterator[None]:
        """A leaf that does not answer is left out; who is late may be in time for the next."""
        try:
            yield
        except LateError as error:
            self._say(str(error))
        except ServiceError as error:
            self._lost(leaf, error)

    def _lost(self, leaf: str, error: ServiceError) -> None:
        """A leaf that did not answer is not asked until it does."""
        if leaf in self._ready:
            self._say(str(error))
        self._ready.discard(leaf)
        self._leaves[leaf].forget()
