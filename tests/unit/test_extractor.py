"""The extractor: every photo comes out once, in order, as a vector or as a failure, whatever the photos are."""

import functools
import gc
import io
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import psutil
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from likeness.core.errors import ServiceError
from likeness.core.settings import Extract, Limits
from likeness.images.image import BadImage
from likeness.images.query_views import QueryView
from likeness.models.backbones import Space, resolve
from likeness.models.extracted_batch import ExtractedBatch
from likeness.models.extractor import Extractor
from likeness.models.runtimes import Runtime
from likeness.models.runtimes.openvino_cpu import OpenVinoRuntime

PIXELS = 224 * 224 * 3


class Centre:
    """A network that gives the colour of the middle: a photo's vector says which photo it was."""

    name = "centre"
    max_passes, busy_s = 1, 0.0

    def __init__(self) -> None:
        self.batches: list[int] = []

    def __call__(self, images: np.ndarray) -> np.ndarray:
        self.batches.append(len(images))
        return images[:, 112, 112].astype(np.float32)


def coloured(number: int) -> bytes:
    """A photo whose colour is a number up to 65,535, without loss."""
    file = io.BytesIO()
    Image.new("RGB", (8, 8), (number >> 8, number & 255, 7)).save(file, "PNG")
    return file.getvalue()


COLOURED = [coloured(number) for number in range(80)]


def photos(count: int) -> Iterator[tuple[str, bytes]]:
    return ((str(number), COLOURED[number]) for number in range(count))


@pytest.fixture(scope="session")
def default() -> Space:
    return resolve("efficientnet_lite0.pool")


def extractor(space: Space, runtime: Runtime | None = None, timeout: float = 30, **settings: int) -> Extractor:
    return Extractor(space, runtime or Centre(), Extract(**settings), Limits(decode_timeout_s=timeout))  # type: ignore[arg-type]


def numbers(batch: ExtractedBatch) -> list[int]:
    """Which photos the vectors of a batch are of, as the vectors themselves say."""
    return [int(vector[0]) * 256 + int(vector[1]) for vector in batch.vectors]


def keys(batches: list[ExtractedBatch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def failures(batches: list[ExtractedBatch]) -> dict[str, str]:
    return {key: bad.reason for batch in batches for key, bad in batch.failures}


# -- order and batches


@pytest.mark.parametrize("count", [0, 1, 3, 4, 5, 8, 9, 40])
def test_the_order_is_kept_and_batches_are_full(default: Space, count: int) -> None:
    runtime = Centre()
    batches = list(extractor(default, runtime, batch_size=4).run(photos(count)))
    assert keys(batches) == [str(number) for number in range(count)]
    assert [number for batch in batches for number in numbers(batch)] == list(range(count))
    assert (
        [len(batch.keys) for batch in batches] == runtime.batches == [4] * (count // 4) + [count % 4] * (count % 4 > 0)
    )
    assert all(batch.vectors.dtype == np.float32 and batch.failures == [] for batch in batches)


@pytest.mark.parametrize("threads", [1, 2, 8])
def test_the_order_is_kept_when_later_photos_are_ready_first(
    default: Space, rng: np.random.Generator, threads: int
) -> None:
    file = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, (700, 700, 3), np.uint8)).save(file, "PNG")
    mixed = [(str(number), file.getvalue() if number % 7 == 0 else COLOURED[number]) for number in range(30)]
    batches = list(extractor(default, batch_size=5, decode_threads=threads).run(mixed))
    assert keys(batches) == [str(number) for number in range(30)]
    order = [number for batch in batches for number in numbers(batch)]
    assert [number for place, number in enumerate(order) if place % 7] == [n for n in range(30) if n % 7]


class Piped(Centre):
    """Two passes at once: each waits until there is another."""

    max_passes = 2

    def __init__(self) -> None:
        super().__init__()
        self.both = threading.Barrier(2)

    def __call__(self, images: np.ndarray) -> np.ndarray:
        if len(self.batches) < 4:
            self.both.wait(30)
        return super().__call__(images)


def test_passes_overlap_where_it_is_worth_it_and_the_order_is_kept(default: Space) -> None:
    mine = Extractor(default, Piped(), Extract(batch_size=4), Limits())
    source = [*photos(17), ("bad", b"text"), *((f"again {key}", data) for key, data in photos(10))]
    batches = list(mine.run(iter(source)))
    assert keys(batches) == [key for key, _ in source if key != "bad"]
    assert [number for batch in batches for number in numbers(batch)] == [*range(17), *range(10)]
    assert failures(batches) == {"bad": "not_an_image"}
    assert all(batch.seconds for batch in batches)


def test_a_pass_that_fails_while_others_go_on_is_told(default: Space) -> None:
    class Broken(Centre):
        max_passes = 2

        def __call__(self, images: np.ndarray) -> np.ndarray:
            if images[0, 112, 112, 1] == 8:
                raise ServiceError("no memory")
            return super().__call__(images)

    with pytest.raises(ServiceError, match="no memory"):
        list(Extractor(default, Broken(), Extract(batch_size=4), Limits()).run(photos(40)))


class Moody(Centre):
    """Gives no number for photos of one colour."""

    def __call__(self, images: np.ndarray) -> np.ndarray:
        vectors = super().__call__(images)
        vectors[vectors[:, 0] == 1] = [1, np.nan, 0]
        return vectors


@functools.cache
def moody(space: Space, size: int, threads: int) -> Extractor:
    return extractor(space, Moody(), batch_size=size, decode_threads=threads)


@given(st.lists(st.sampled_from(["good", "broken", "empty", "nan"]), max_size=14), st.integers(1, 5), st.integers(1, 2))
def test_every_photo_comes_out_once(default: Space, kinds: list[str], size: int, threads: int) -> None:
    data = {"broken": b"\xff\xd8\xff\xe0 no photo", "empty": b"", "nan": coloured(256)}
    given_ = [(f"{number} {kind}", data.get(kind, COLOURED[number])) for number, kind in enumerate(kinds)]
    batches = list(moody(default, size, threads).run(given_))
    assert keys(batches) == [key for key, _ in given_ if key.endswith("good")]
    assert [f"{number} good" for batch in batches for number in numbers(batch)] == keys(batches)
    reasons = {"broken": "not_an_image", "empty": "empty", "nan": "not_finite"}
    assert failures(batches) == {key: reasons[key.split()[1]] for key, _ in given_ if not key.endswith("good")}
    assert sum(len(batch.failures) for batch in batches) == len(failures(batches))
    assert all(len(batch.keys) == len(batch.vectors) <= size for batch in batches)


def test_nothing_but_failures_asks_no_network(default: Space) -> None:
    runtime = Centre()
    batches = list(extractor(default, runtime, batch_size=2).run((str(number), b"") for number in range(7)))
    assert [key for batch in batches for key, _ in batch.failures] == [str(number) for number in range(7)]
    assert [key for batch in batches for key in batch.keys] == []
    assert runtime.batches == []


def test_a_run_that_is_left_does_not_write_into_the_next(default: Space) -> None:
    mine = extractor(default, Centre(), batch_size=4, decode_threads=2)
    wide = io.BytesIO()
    Image.new("RGB", (3000, 3000), (255, 255, 7)).save(wide, "PNG")
    left = mine.run([(str(number), COLOURED[number]) for number in range(5)] + [("5", wide.getvalue())])
    assert numbers(next(left)) == [0, 1, 2, 3]
    left.close()  # one decoder is at work on photo 5, the other is free for those of the next run
    following = [(str(number), COLOURED[number]) for number in range(7)] + [("7", wide.getvalue())]
    batches = list(mine.run(following))
    assert [number for batch in batches for number in numbers(batch)] == [*range(7), 65535]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_vector_that_is_not_finite_is_a_failure_of_its_own_photo(default: Space, value: float) -> None:
    class Broken(Centre):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            vectors = super().__call__(images)
            vectors[vectors[:, 1] == 2, 2] = value
            return vectors

    (batch,) = extractor(default, Broken(), batch_size=8).run(photos(5))
    assert batch.keys == ["0", "1", "3", "4"]
    assert numbers(batch) == [0, 1, 3, 4]
    assert [(key, bad.reason) for key, bad in batch.failures] == [("2", "not_finite")]


def test_the_limits_are_the_callers(default: Space) -> None:
    limits = Limits(max_pixels=63)
    (batch,) = Extractor(default, Centre(), Extract(), limits).run(photos(2))
    assert [bad.reason for _, bad in batch.failures] == ["too_many_pixels"] * 2


# -- how far it looks ahead


class Pulled:
    """Photos that count how many of them were asked for."""

    def __init__(self, count: int, data: bytes | None = None) -> None:
        self.count, self.data, self.pulled = count, data, 0

    def __iter__(self) -> Iterator[tuple[str, bytes]]:
        for number in range(self.count):
            self.pulled += 1
            yield str(number), self.data or COLOURED[number]


def most_ahead(extractor_: Extractor, source: Pulled) -> int:
    """The most photos that were asked for and had not come out when a batch was given."""
    ahead = done = 0
    for batch in extractor_.run(source):
        done += len(batch.keys) + len(batch.failures)
        ahead = max(ahead, source.pulled - done)
    assert done == source.count
    return ahead


@pytest.mark.parametrize("size", [1, 4, 10])
def test_it_looks_four_batches_ahead(default: Space, size: int) -> None:
    source = Pulled(80)
    ahead = most_ahead(extractor(default, batch_size=size), source)
    assert size <= ahead <= 4 * size


def test_decoded_photos_are_bounded_by_bytes(default: Space) -> None:
    assert most_ahead(extractor(default, batch_size=8, queue_bytes=5 * (PIXELS + 1000)), Pulled(40)) <= 6


def test_photos_as_they_came_are_bounded_by_bytes_too(default: Space) -> None:
    large = coloured(5) + bytes(10_000_000)
    assert most_ahead(extractor(default, batch_size=8, queue_bytes=32_000_000), Pulled(30, large)) <= 4


def test_a_photo_larger_than_the_queue_passes(default: Space) -> None:
    batches = list(extractor(default, batch_size=4, queue_bytes=1).run(photos(9)))
    assert keys(batches) == [str(number) for number in range(9)]


def test_nothing_is_asked_for_before_it_is_wanted(default: Space) -> None:
    source = Pulled(10)
    batches = extractor(default).run(source)
    assert source.pulled == 0
    next(batches)


def test_a_source_that_fails_is_heard(default: Space) -> None:
    def broken() -> Iterator[tuple[str, bytes]]:
        yield from photos(6)
        raise OSError("the table is gone")

    batches = []
    with pytest.raises(OSError, match="the table is gone"):
        batches.extend(extractor(default, batch_size=1).run(broken()))


def test_a_bug_of_the_decoder_is_not_taken_for_a_bad_photo(default: Space, tricks: None) -> None:
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        list(extractor(default).run(tricked({1: "bug"}, 3)))


# -- decoders that hang or die


def tricked(tricks: dict[int, str], count: int) -> Iterator[tuple[str, bytes]]:
    """Photos, some of which do to the decoder what `tricks` says."""
    return ((key, data + f"#{tricks.get(int(key), '')}".encode()) for key, data in photos(count))


@pytest.mark.parametrize("bad", [[0], [9], [29], [3, 4], [0, 10, 20, 29]])
@pytest.mark.parametrize("threads", [1, pytest.param(2, marks=pytest.mark.slow)])
@pytest.mark.parametrize(("trick", "reason"), [("hang", "decode_timeout"), ("crash", "decoder_died")])
def test_a_photo_that_ends_the_decoder_fails_and_the_rest_go_on(
    default: Space, tricks: None, bad: list[int], threads: int, trick: str, reason: str
) -> None:
    source = tricked(dict.fromkeys(bad, trick), 30)
    batches = list(extractor(default, timeout=1, batch_size=4, decode_threads=threads).run(source))
    assert failures(batches) == {str(number): reason for number in bad}
    assert keys(batches) == [str(number) for number in range(30) if number not in bad]
    assert [str(number) for batch in batches for number in numbers(batch)] == keys(batches)


def test_it_is_told_how_the_decoder_has_died(default: Space, tricks: None) -> None:
    (batch,) = extractor(default).run(tricked({1: "crash", 2: "leave"}, 4))
    assert [bad.detail for _, bad in batch.failures] == ["signal 11", "exit code 3"]


def test_a_decoder_that_somebody_else_kills_costs_no_photo(default: Space) -> None:
    before = set(psutil.Process().children())
    mine = extractor(default, decode_threads=1)
    mine.extract_one(COLOURED[0])
    (decoder,) = [one for one in psutil.Process().children() if one not in before]
    decoder.kill()
    assert mine.extract_one(COLOURED[3])[0].tolist() == [0, 3, 7]


def test_looks_of_a_photo_are_passes_of_one_batch(default: Space) -> None:
    """The photo is red at the left, green in the middle and blue at the right of a strip of which a third is seen."""

    class Mean(Centre):
        def __call__(self, images: np.ndarray) -> np.ndarray:
            self.batches.append(len(images))
            edges = np.stack([images[:, 112, 8], images[:, 112, 112], images[:, 112, 215]], 1)
            return edges.reshape(len(images), -1).astype(np.float32)

    network, strip = Mean(), np.zeros((100, 300, 3), np.uint8)
    strip[:, :100, 0] = strip[:, 100:200, 1] = strip[:, 200:, 2] = 200
    file = io.BytesIO()
    Image.fromarray(strip).save(file, "PNG")
    vectors = Extractor(default, network, Extract(), Limits()).extract_one(
        file.getvalue(), views=[QueryView.WHOLE, QueryView.TURNED]
    )
    assert network.batches == [5]
    itself, whole, *turned = vectors.reshape(5, 3, 3).argmax(2).tolist()
    assert itself == [1, 1, 1], "the middle of the strip"
    assert whole == [0, 1, 2], "all of it"
    assert turned == [[1, 1, 1]] * 3


def test_a_photo_behind_a_slow_one_has_its_own_time(default: Space, tricks: None) -> None:
    source = tricked(dict.fromkeys(range(6), "slow"), 6)
    batches = list(extractor(default, timeout=1, batch_size=8, decode_threads=1).run(source))  # 1.8 s in all
    assert keys(batches) == [str(number) for number in range(6)]


def test_a_decoder_that_does_not_start_is_told(default: Space, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sitecustomize.py").write_text("import os\nos._exit(7)")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(ServiceError, match="does not start: exit code 7"):
        extractor(default).extract_one(COLOURED[0])


HANG = """
import sys, threading
from likeness.models.backbones import resolve
from likeness.images.decoder_pool import DecoderPool
from likeness.core.settings import Limits
decoders = DecoderPool(1, resolve("efficientnet_lite0.pool").preprocessing, Limits())
found = decoders.submit(sys.stdin.buffer.read())
print("asked", flush=True)
threading.Event().wait(float(sys.argv[1]))
"""


@pytest.mark.parametrize("lasts", [60, 1])
def test_a_stuck_decoder_ends_with_the_process_that_asks(tricks: None, lasts: int) -> None:
    command = [sys.executable, "-c", HANG, str(lasts)]
    asking = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert asking.stdin
    assert asking.stdout
    asking.stdin.write(COLOURED[0] + b"#hang")
    asking.stdin.close()
    assert asking.stdout.readline() == b"asked\n"
    decoders: list[psutil.Process] = []
    while not decoders:  # between fork and exec it has another name
        decoders = [
            one for one in psutil.Process(asking.pid).children() if "likeness.images.decoder_worker" in one.cmdline()
        ]
    if lasts > 30:
        asking.kill()
    asking.wait(30)
    asking.stdout.close()
    decoders[0].wait(30)


def test_the_threads_end_with_the_extractor(default: Space) -> None:
    def mine() -> set[threading.Thread]:
        return {thread for thread in threading.enumerate() if thread.name == "decode"}

    gc.collect()
    before = mine()
    used, unused, left = (extractor(default, decode_threads=3) for _ in range(3))
    list(used.run(photos(10)))
    next(left.run(photos(80)))  # its consumer goes away in the middle
    assert len(mine() - before) == 9
    del used, unused, left
    gc.collect()
    deadline = time.monotonic() + 60
    while mine() - before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert mine() - before == set()


# -- the real network


def test_one_photo(default: Space, photo: bytes) -> None:
    one = extractor(default).extract_one
    assert one(COLOURED[9])[0].tolist() == [0, 9, 7]
    assert one(COLOURED[9]).shape == (1, 3)
    for data, reason in ((b"", "empty"), (b"text", "not_an_image"), (photo[:2000], "undecodable")):
        with pytest.raises(BadImage) as caught:
            one(data)
        assert caught.value.reason == reason


def test_service_and_job_give_the_same_vector(default: Space, cache: str, sample: object) -> None:
    paths = sorted(sample.glob("*/*.jpg"))[::16]  # type: ignore[attr-defined]
    given_ = [(path.name, path.read_bytes()) for path in paths]
    mine = extractor(default, OpenVinoRuntime(default, cache, 1), batch_size=4)
    batches = list(mine.run(given_))
    assert keys(batches) == [path.name for path in paths]
    vectors = np.concatenate([batch.vectors for batch in batches])
    assert (vectors.shape, vectors.dtype) == ((10, 1280), np.float32)
    for vector, (_, data) in zip(vectors, given_, strict=True):
        alone = mine.extract_one(data)[0]
        assert alone.dtype == np.float32
        assert vector @ alone / np.linalg.norm(vector) / np.linalg.norm(alone) >= 0.9999


def test_several_callers_at_once(default: Space) -> None:
    mine = extractor(default, decode_threads=2)
    with ThreadPoolExecutor(6) as pool:
        vectors = list(pool.map(mine.extract_one, COLOURED))
    assert [int(vector[0, 1]) for vector in vectors] == list(range(80))


def test_one_run_at_a_time(default: Space) -> None:
    one = extractor(default, batch_size=4)
    first = one.run(photos(8))
    next(first)
    with pytest.raises(RuntimeError, match="while another run of it is not over"):
        next(one.run(photos(8)))
    first.close()
    assert len(keys(list(one.run(photos(8))))) == 8
