"""A decoder in a process of its own: photo bytes in, the network's input or the reason why not out.

A photo that makes the decoder crash or hang costs this process, and nothing else.
"""

import ctypes
import json
import mmap
import os
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import time
import traceback
import weakref
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Limits
from likeness.images.image import WHOLE, BadImage, Box, Preprocessing, prepared

GROUP = 8
"""Photos that are asked for at once, at most: each answer costs a change from process to process."""
_COUNT = struct.Struct("<I")
_ASKED = struct.Struct("<I4d?i")
"""Of each photo: its bytes, the box, whether nothing of it is cut off, and the row that its pixels go to, or -1. Then
the photos themselves follow."""
_TOLD = struct.Struct("<BI")
"""Of each photo: what there is (pixels in the shared memory, why there are none, where this code has failed), and bytes
of the texts that follow."""
_PIXELS, _BAD, _BUG = range(3)
_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
"""For glibc: memory of one photo is kept for the next, else each costs a hundred page faults; more is given back."""
_BUFFER = 1 << 20
_START_S, _HELLO = 60.0, b"ready"
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class DecodeRequest:
    """The part of a photo in a box, or with `uncut` all of it made square.

    Its pixels go to a row of the `Rows` that the decoder was given, or into new memory.
    """

    data: bytes
    box: Box = WHOLE
    uncut: bool = False
    row: int | None = None


class Decoder:
    """One process that decodes, begun anew whenever a photo has ended it. For one thread at a time.

    Args:
        how: what photos are made into.
        limits: what they may take.
        rows: where pixels may go to, and nobody writes otherwise as long as a photo is on its way there.
    """

    def __init__(self, how: Preprocessing, limits: Limits, rows: "Rows") -> None:
        self._how, self._limits, self._rows = how, limits, rows
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._shared: Rows | None = None
        self._greeted = False

    def __call__(self, asked: Sequence[DecodeRequest]) -> list[np.ndarray | BadImage]:
        """What becomes of photos, at most `GROUP` of them: their pixels, or why there are none.

        Those that have cost the process are `decoder_died` or `decode_timeout`.

        Raises:
            ServiceError: the process does not start.
            RuntimeError: this code has failed.
        """
        if len(asked) > 1:
            with suppress(TimeoutError, ConnectionError):
                return self._tried(asked)
            return [found for one in asked for found in self([one])]  # so that the culprit is known
        try:
            with suppress(ConnectionError):  # once may be the fault of somebody else, as of one who frees memory
                return self._tried(asked)
            return self._tried(asked)
        except ConnectionError as error:
            return [BadImage("decoder_died", str(error))]
        except TimeoutError:
            return [BadImage("decode_timeout", f"over {self._limits.decode_timeout_s} s")]

    def _tried(self, asked: Sequence[DecodeRequest]) -> list[np.ndarray | BadImage]:
        """The same.

        Raises:
            TimeoutError: a photo takes too long.
            ConnectionError: the process has died of one; how.
        """
        line = self._greet()
        heads = [_ASKED.pack(len(one.data), *one.box, one.uncut, -1 if one.row is None else one.row) for one in asked]
        try:
            line.settimeout(self._limits.decode_timeout_s)
            line.sendall(b"".join([_COUNT.pack(len(asked)), *heads, *(one.data for one in asked)]))
            self._wait(line)
            ends = time.monotonic() + self._limits.decode_timeout_s
            told = list(_TOLD.iter_unpack(_exactly(line, len(asked) * _TOLD.size, ends)))
            texts = [bytes(_exactly(line, length, ends)) if length else b"" for _, length in told]
        except TimeoutError:
            self._end()
            raise
        except OSError:
            raise ConnectionError(self._end()) from None
        return [
            self._found(number, what, text, asked[number].row)
            for number, ((what, _), text) in enumerate(zip(told, texts, strict=True))
        ]

    def _wait(self, line: socket.socket) -> None:
        """Waits for an answer, as long as there is a photo done now and then.

        Raises:
            TimeoutError: there is none in the time of one.
        """
        assert self._shared
        while True:
            done = self._shared.done
            try:
                line.recv(1, socket.MSG_PEEK)
                return
            except TimeoutError:
                if self._shared.done == done:
                    raise

    def _found(self, number: int, what: int, text: bytes, row: int | None) -> np.ndarray | BadImage:
        if what == _BAD:
            return BadImage(**json.loads(text))
        if what == _BUG:
            raise RuntimeError(f"the decoder has failed:\n{text.decode()}")
        assert self._shared
        pixels: np.ndarray = self._shared.pixels[number].copy() if row is None else self._rows.pixels[row]
        return pixels

    def begin(self) -> None:
        """Starts the process, unless there is one; it is there some tenths of a second later.

        Raises:
            ServiceError: it cannot be started.
        """
        if self._process is not None:
            return
        self._line, theirs = socket.socketpair()
        for one in (self._line, theirs):
            one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._shared = Rows(GROUP, self._how.side)
        files = [self._shared.fileno(), self._rows.fileno()]
        given = {"how": asdict(self._how), "limits": self._limits.model_dump(), "parent": os.getpid()}
        given["shared"] = [self._shared.told, self._rows.told]
        command = [sys.executable, "-m", "likeness.images.decoder_process", str(theirs.fileno()), json.dumps(given)]
        # a job's archive is on sys.path, and may not be in the environment
        paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        named = {**os.environ, **_KEPT, "PYTHONPATH": paths}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno(), *files], stdin=subprocess.DEVNULL, env=named
                )
            except OSError as error:
                raise ServiceError(f"a decoder process cannot be started: {error}") from None

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._end()

    def _greet(self) -> socket.socket:
        """Waits until the process is there, since its start is not the photo's fault."""
        self.begin()
        assert self._line
        if not self._greeted:
            try:
                _exactly(self._line, len(_HELLO), time.monotonic() + _START_S)
            except OSError:
                raise ServiceError(f"a decoder process does not start: {self._end()}; it may have said why") from None
            self._greeted = True
        return self._line

    def _end(self) -> str:
        """Ends the process; says how it has ended by itself, if it has."""
        assert self._process
        assert self._line
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._line.close()
        self._process = self._line = self._shared = None
        self._greeted = False
        if code is None:
            return "it hung"
        return f"signal {-code}" if code < 0 else f"exit code {code}"


def _exactly(line: socket.socket, length: int, ends: float | None = None) -> bytearray:
    """So many bytes, by a time of the monotonic clock if one is given.

    Raises:
        TimeoutError: they do not come in time.
        ConnectionError: they never come.
    """
    read = bytearray(length)
    view, had = memoryview(read), 0
    while had < length:
        line.settimeout(None if ends is None else max(0.001, ends - time.monotonic()))
        got = line.recv_into(view[had:])
        if not got:
            raise ConnectionError("the other end is closed")
        had += got
    return read


class Rows:
    """Photos in memory that processes have in common, for pixels are too many to be sent.

    It goes with the last array of it.
    """

    def __init__(self, rows: int, side: int, number: int | None = None) -> None:
        """New memory, of which only what is written to is taken, or that of a file number that was handed over."""
        if number is not None:
            self._file: IO[bytes] = os.fdopen(number, "r+b", buffering=0)
        elif sys.platform == "linux":
            self._file = os.fdopen(os.memfd_create("likeness-decoder"), "r+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as this
        length = rows * side**2 * 3
        weakref.finalize(self, self._file.close)
        self._file.truncate(8 + length)
        held = mmap.mmap(self._file.fileno(), 8 + length)
        self._done = np.frombuffer(held, np.int64, 1)
        self.pixels = np.frombuffer(held, np.uint8, length, 8).reshape(rows, side, side, 3)
        """uint8 (rows, side, side, 3)."""

    @property
    def done(self) -> int:
        """Photos done so far."""
        return int(self._done[0])

    @done.setter
    def done(self, count: int) -> None:
        self._done[0] = count

    def fileno(self) -> int:
        """Of the memory, for the other process."""
        return self._file.fileno()

    @property
    def told(self) -> tuple[int, int, int]:
        """What the other process makes the same of, once it has the file."""
        return len(self.pixels), self.pixels.shape[1], self.fileno()


def _serve(line: socket.socket, shared: Rows, rows: Rows, how: Preprocessing, limits: Limits) -> None:
    """Decodes what comes, until the other end is closed."""
    whole = replace(how, shape="squash", resize=how.side)
    line.sendall(_HELLO)
    while True:
        (count,) = _COUNT.unpack(_exactly(line, _COUNT.size))
        heads = list(_ASKED.iter_unpack(_exactly(line, count * _ASKED.size)))
        photos = [bytes(_exactly(line, length)) for length, *_ in heads]
        told, texts = list[bytes](), list[bytes]()
        for number, (_, *box, uncut, row) in enumerate(heads):
            try:
                pixels = prepared(photos[number], (*box,), whole if uncut else how, limits)
                (shared.pixels[number] if row < 0 else rows.pixels[row])[:] = pixels
                what, text = _PIXELS, b""
            except BadImage as bad:
                what, text = _BAD, json.dumps({"reason": bad.reason, "detail": bad.detail}).encode()
            except Exception:  # of this code, not of the photo
                what, text = _BUG, traceback.format_exc().encode()
            told.append(_TOLD.pack(what, len(text)))
            texts.append(text)
            shared.done += 1
        line.sendall(b"".join(told + texts))


def _main(number: str, text: str) -> None:
    given: dict[str, Any] = json.loads(text)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one who asks
    if sys.platform == "linux":  # an endless loop would not see that the other end is gone
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != given["parent"]:
            return
    how: dict[str, Any] = {name: tuple(one) if isinstance(one, list) else one for name, one in given["how"].items()}
    with socket.socket(fileno=int(number)) as line, suppress(ConnectionError, BrokenPipeError):
        line.setblocking(True)
        shared, rows = (Rows(*told) for told in given["shared"])
        _serve(line, shared, rows, Preprocessing(**how), Limits(**given["limits"]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
