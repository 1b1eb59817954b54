"""Leaves as processes of their own: the same answers as one process gives, and in time whatever befalls them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from likeness.core.errors import ServiceError, UsageError
from likeness.core.settings import Settings
from likeness.index.builds import Builds
from likeness.serving.leaf import LeafQuery
from likeness.serving.leaf_client import RemoteLeaf
from likeness.serving.leaf_server import read_token
from likeness.serving.query_terms import PhotoTerm, ProductTerm
from likeness.serving.responses import Answer
from likeness.serving.root import CoverageError
from likeness.serving.search_params import SearchParams
from likeness.serving.service import Service
from likeness.serving.shard_placement import place

K = 7


class Process:
    """A leaf, with its address."""

    def __init__(
        self, settings: Settings, port: int = 0, token: str = "", host: str = "127.0.0.1", within: Sequence[str] = ()
    ) -> None:
        command = [*within, sys.executable, "-m", "likeness.cli", "leaf"]
        command += ["--root", settings.root, "--listen", f"{host}:{port}"]
        command += ["--set", f"extract.cache={settings.extract.cache}", "--set", f"serve.leaf_token={token}"]
        self._popen = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self._popen.stderr
        self.said = [self._popen.stderr.readline().strip()]
        self.address = self.said[0].removeprefix("leaf listening on ")
        self.port = int(self.address.rpartition(":")[2])
        self.handle = psutil.Process(self._popen.pid)
        self._reader = threading.Thread(target=lambda: self.said.extend(self._popen.stderr or ()))
        self._reader.start()

    def hang(self) -> None:
        """Stops it where it is; returns once all its threads stand still."""
        self.handle.suspend()
        os.waitid(os.P_PID, self.handle.pid, os.WSTOPPED)

    def end(self, how: int = signal.SIGTERM) -> int:
        if self._popen.poll() is None:
            self.handle.resume()
            self._popen.send_signal(how)
        code = self._popen.wait(30)
        self._reader.join()
        if self._popen.stderr:
            self._popen.stderr.close()
        return code


@contextmanager
def leaves(settings: Settings, count: int, token: str = "") -> Iterator[list[Process]]:
    with ExitStack() as stack:
        started = [Process(settings, token=token) for _ in range(count)]
        for one in started:
            stack.callback(one.end)
        yield started


@contextmanager
def asking(
    settings: Settings, processes: list[Process], say: Callable[[str], None] = print, **serve: Any
) -> Iterator[Service]:
    """A service whose shards are in those leaves; it has the patience that a busy machine wants, unless told else."""
    serve = {"leaves": [one.address for one in processes], "deadline_ms": 20_000, **serve}
    service = Service(settings.model_copy(update={"serve": settings.serve.model_copy(update=serve)}), say)
    try:
        service.start()
        yield service
    finally:
        service.stop()


class Link:
    """A way to a leaf that can be cut, so that nothing arrives and nobody is told, or be slow."""

    def __init__(self, leaf: Process) -> None:
        self.delay_s, self.cut = 0.0, False
        self._leaf, self._listener = leaf, socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._open: list[socket.socket] = [self._listener]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        for one in self._open:
            with suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                here = self._listener.accept()[0]
                there = socket.create_connection(("127.0.0.1", self._leaf.port))
            except OSError:
                return
            self._open += [here, there]
            for pair in ((here, there), (there, here)):
                threading.Thread(target=self._carry, args=pair, daemon=True).start()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(1 << 16):
                time.sleep(self.delay_s)
                while self.cut:
                    time.sleep(0.02)
                target.sendall(data)


def products(service: Service) -> list[str]:
    return [item.product_id for item in service.catalogue(1000).some]


def timeless(answer: Answer) -> dict[str, Any]:
    """The fields that do not depend on the clock."""
    return answer.model_dump(exclude={"took_ms"})


def until(true: Callable[[], bool], within_s: float = 30) -> None:
    ends = time.monotonic() + within_s
    while not true():
        assert time.monotonic() < ends
        time.sleep(0.05)


@pytest.mark.parametrize("count", [1, 2, 4])
def test_leaves_answer_as_one_process_does(published: Settings, service: Service, count: int, sample: Path) -> None:
    photos = [path.read_bytes() for path in sorted(sample.rglob("*.jpg"))[::10]]
    with leaves(published, count) as processes, asking(published, processes, replicas=min(2, count)) as remote:
        assert sorted(products(remote)) == sorted(products(service))
        for product_id in products(service):
            for params in (SearchParams(K), SearchParams(K, "all", distinct=True, where=["colour=red"])):
                assert timeless(remote.search(ProductTerm(product_id), params)) == timeless(
                    service.search(ProductTerm(product_id), params)
                )
        for photo in photos:
            assert timeless(remote.search(PhotoTerm([photo]), SearchParams(K))) == timeless(
                service.search(PhotoTerm([photo]), SearchParams(K))
            )
        image = service.catalogue(1).some[0].image_id
        assert remote.thumbnail(image, 64) == service.thumbnail(image, 64)
        assert remote.thumbnail("0" * 64, 64) is None
        assert [one.end() for one in processes] == [0] * count


def test_a_replica_answers_for_a_leaf_that_is_killed(published: Settings, service: Service) -> None:
    params = SearchParams(K, "all", min_coverage=1)
    with leaves(published, 3) as processes, asking(published, processes, replicas=2) as remote:
        names = products(service)
        for number, name in enumerate(names[:60]):
            if number == 20:
                processes[0].end(signal.SIGKILL)
            assert timeless(remote.search(ProductTerm(name), params)) == timeless(
                service.search(ProductTerm(name), params)
            )


def test_without_a_replica_an_answer_says_what_it_lacks(published: Settings, service: Service) -> None:
    with leaves(published, 2) as processes, asking(published, processes) as remote:
        name = products(service)[0]
        whole = remote.search(ProductTerm(name), SearchParams(1000, "all"))
        processes[0].end(signal.SIGKILL)
        for _ in range(5):
            answer = remote.search(ProductTerm(name), SearchParams(1000, "all"))
            coverage = answer.coverage
            assert 0 < coverage.answered < coverage.shards == whole.coverage.shards
            assert 0 < coverage.searched < whole.coverage.searched
            assert len(answer.results) < len(whole.results)
            assert processes[0].address in " ".join(coverage.degraded)
        with pytest.raises(CoverageError, match="min_coverage is 1: leaf"):
            remote.search(ProductTerm(name), SearchParams(K, "all", min_coverage=1))
        processes[0] = Process(published, processes[0].port)
        until(lambda: remote.search(ProductTerm(name), SearchParams(1000, "all")).coverage == whole.coverage)
        for process in processes:
            process.end(signal.SIGKILL)
        nothing = remote.search(ProductTerm(name), SearchParams(K, "all"))
        assert (nothing.coverage.answered, nothing.results) == (0, ())


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_leaf_that_hangs_keeps_nobody_waiting(published: Settings, service: Service, replicas: int) -> None:
    limits = {"replicas": replicas, "deadline_ms": 4000, "hedge_ms": 100}
    with leaves(published, 2) as processes, asking(published, processes, **limits) as remote:
        names = products(service)
        processes[1].hang()
        took = []
        for name in names[:10]:
            begun = time.monotonic()
            answer = remote.search(ProductTerm(name), SearchParams(K, "all"))
            took.append(time.monotonic() - begun)
            if replicas == 2:
                assert timeless(answer) == timeless(service.search(ProductTerm(name), SearchParams(K, "all")))
            else:
                assert 0 < answer.coverage.answered < answer.coverage.shards
        assert max(took) < (3 if replicas == 2 else 5)
        processes[1].handle.resume()
        name = names[0]
        until(
            lambda: (
                timeless(remote.search(ProductTerm(name), SearchParams(K, "all")))
                == timeless(service.search(ProductTerm(name), SearchParams(K, "all")))
            )
        )


def test_a_leaf_ends_when_told_right_after_a_pause(published: Settings) -> None:
    """Its main thread may be still asleep then, and the system hands the signal to another: lost in four of ten."""
    with leaves(published, 6) as processes:
        for process in processes:
            process.hang()
            assert process.end() == 0


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_link_that_is_cut_or_slow(published: Settings, service: Service, replicas: int) -> None:
    limits = {"replicas": replicas, "deadline_ms": 3000, "hedge_ms": 100}
    params, name = SearchParams(K, "all"), products(service)[0]
    expected = timeless(service.search(ProductTerm(name), params))
    with leaves(published, 2) as processes, closing(Link(processes[0])) as link, ExitStack() as stack:
        ends: Any = [link, processes[1]]  # the root knows the first leaf by the link's address
        remote = stack.enter_context(asking(published, ends, **limits))
        for cut, delay_s in ((False, 0.5), (True, 0.0)):
            link.cut, link.delay_s = cut, delay_s
            took = []
            for _ in range(5):
                begun = time.monotonic()
                answer = remote.search(ProductTerm(name), params)
                took.append(time.monotonic() - begun)
                if replicas == 2 or (not cut and not answer.coverage.degraded):
                    assert timeless(answer) == expected
                else:
                    assert 0 < answer.coverage.answered < answer.coverage.shards
                    assert link.address in " ".join(answer.coverage.degraded)
            assert max(took) < (2.5 if replicas == 2 else 4)
            link.cut, link.delay_s = False, 0.0
            until(lambda: timeless(remote.search(ProductTerm(name), params)) == expected)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("ip"), reason="network namespaces want root and iproute2")
def test_hosts_of_their_own(published: Settings, service: Service) -> None:
    """A leaf in a network namespace, reached over a pair of links of which one is taken down."""
    space, params, name = f"likeness-{os.getpid()}", SearchParams(K, "all"), products(service)[0]
    near, far = f"lk{os.getpid() % 10**6}a", f"lk{os.getpid() % 10**6}b"

    def ip(*words: str) -> None:
        subprocess.run(["ip", *words], check=True, capture_output=True)

    ip("netns", "add", space)
    with ExitStack() as stack:
        stack.callback(ip, "netns", "del", space)
        ip("link", "add", near, "type", "veth", "peer", "name", far)
        ip("link", "set", far, "netns", space)
        ip("addr", "add", "10.231.97.1/30", "dev", near)
        ip("link", "set", near, "up")
        for words in (("addr", "add", "10.231.97.2/30", "dev", far), ("link", "set", far, "up")):
            ip("netns", "exec", space, "ip", *words)
        away = Process(published, host="10.231.97.2", within=["ip", "netns", "exec", space])
        stack.callback(away.end)
        (home,) = stack.enter_context(leaves(published, 1))
        expected = timeless(service.search(ProductTerm(name), params))
        for replicas in (1, 2):
            with asking(published, [away, home], replicas=replicas, deadline_ms=3000) as remote:
                assert timeless(remote.search(ProductTerm(name), params)) == expected
                ip("link", "set", near, "down")
                for _ in range(5):
                    begun = time.monotonic()
                    answer = remote.search(ProductTerm(name), params)
                    assert time.monotonic() - begun < (2.5 if replicas == 2 else 4)
                    if replicas == 2:
                        assert timeless(answer) == expected
                    else:
                        assert 0 < answer.coverage.answered < answer.coverage.shards
                ip("link", "set", near, "up")
                until(lambda remote=remote: timeless(remote.search(ProductTerm(name), params)) == expected)


def test_no_query_fails_when_another_build_takes_over(published: Settings) -> None:
    builds = Builds(published.root)
    new, old = builds.chain()
    sizes = {builds.read(path).build: builds.read(path).vectors for path in (new, old)}
    with leaves(published, 2) as processes, asking(published, processes, replicas=2) as remote:
        product, seen, stopped = products(remote)[0], list[tuple[str, int]](), threading.Event()

        def ask() -> None:
            while not stopped.is_set():
                answer = remote.search(ProductTerm(product), SearchParams(500, "all", min_coverage=1))
                seen.append((answer.build, answer.coverage.searched))

        threads = [threading.Thread(target=ask) for _ in range(3)]
        for thread in threads:
            thread.start()
        try:
            for path in [old, new] * 5:
                builds.rollback(path)
                until(lambda path=path: remote.builds.loaded().manifest.path == path)
        finally:
            stopped.set()
            for thread in threads:
                thread.join()
            builds.rollback(old)
            builds.publish(builds.read(new), 5)
    assert {build for build, _ in seen} == set(sizes)
    assert all(searched == sizes[build] for build, searched in seen)


def test_a_build_that_leaves_cannot_load_takes_nothing_over(published: Settings, tmp_path: Path) -> None:
    """One of two leaves reads another root, which lacks the new build."""
    builds = Builds(published.root)
    new, old = builds.chain()
    shutil.copytree(published.root, tmp_path / "root", ignore=lambda folder, _: [Path(new).name])
    other = Process(published.model_copy(update={"root": str(tmp_path / "root")}))
    with ExitStack() as stack:
        stack.callback(other.end)
        (leaf,) = stack.enter_context(leaves(published, 1))
        builds.rollback(old)
        stack.callback(builds.publish, builds.read(new), 5)
        lines: list[str] = []
        remote = stack.enter_context(asking(published, [leaf, other], lines.append))
        builds.publish(builds.read(new), 5)
        until(lambda: any("of what is served" in line for line in lines))
        assert f"leaf {other.address}: " in " ".join(lines)
        answer = remote.search(ProductTerm(products(remote)[0]), SearchParams(500, "all", min_coverage=1))
        assert answer.build == builds.read(old).build


def test_only_who_knows_the_token_is_answered(published: Settings, tmp_path: Path) -> None:
    file, other = tmp_path / "token", tmp_path / "other"
    file.write_text("a secret of more than 16\n")
    other.write_text("another one that is long enough")
    with leaves(published, 1, str(file)) as (leaf,):
        for token in ("", read_token(str(other))):
            with pytest.raises(ServiceError, match=r"127\.0\.0\.1:\d+: .*the token is another"):
                RemoteLeaf(leaf.address, token).status(10)
        with asking(published, [leaf], leaf_token=str(file)) as remote:
            assert products(remote)
        with asking(published, [leaf]) as remote:
            assert "no leaf is ready" in remote.builds.problem
    other.write_text("short")
    for path in (other, tmp_path / "none"):
        with pytest.raises(UsageError, match=r"serve\.leaf_token"):
            read_token(str(path))


def test_what_a_leaf_cannot_load_is_told(published: Settings, tmp_path: Path) -> None:
    with leaves(published, 1) as (leaf,):
        remote = RemoteLeaf(leaf.address)
        with pytest.raises(ServiceError, match=r"leaf 127\.0\.0\.1:\d+: "):
            remote.prepare("alexnet.fc6@00000000/none", [0])
        with pytest.raises(ServiceError, match="a/b is not loaded"):
            remote.search("a/b", LeafQuery(np.zeros((1, 4), np.float32), 1, "s@1", shards=frozenset({0})), 10)
        assert remote.status(10) == {}
        for listen in (leaf.address, "127.0.0.1:70000", "nowhere"):
            command = [sys.executable, "-m", "likeness.cli", "leaf", "--root", published.root, "--listen", listen]
            ended = subprocess.run(command, capture_output=True, text=True, timeout=60)
            assert ended.returncode != 0
            assert "--listen" in ended.stderr
            assert listen in ended.stderr


def test_shards_are_spread_and_move_little() -> None:
    shards, names = [f"shard {number}" for number in range(2000)], [f"host{number}:81" for number in range(5)]
    placed = place(shards, names, 2)
    assert all(len(set(places)) == 2 for places in placed.values())
    firsts = [places[0] for places in placed.values()]
    assert all(0.7 < firsts.count(name) / 400 < 1.3 for name in names)
    fewer = place(shards, names[:-1], 2)
    for shard, places in placed.items():
        assert [name for name in places if name != names[-1]] == fewer[shard][: sum(p != names[-1] for p in places)]
    assert place(shards, names[:1], 3) == dict.fromkeys(shards, names[:1])
