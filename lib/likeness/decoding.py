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
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import IO, Any

import numpy as np

from likeness.errors import ServiceError
from likeness.images import BadImage, Box, Preprocessing, prepared
from likeness.settings import Limits

_ASKED = struct.Struct("<I4d?")
"""Bytes of the photo, the box, and whether nothing of it is cut off."""
_TOLD = struct.Struct("<BI")
"""What there is (pixels in the shared memory, why there are none, or where this code has failed), and bytes to read."""
_PIXELS, _BAD, _BUG = range(3)
_KEPT = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
"""For glibc: memory of one photo is kept for the next, else each costs a hundred page faults; more is given back."""
_BUFFER = 1 << 20
_START_S, _HELLO = 60.0, b"ready"
_PR_SET_PDEATHSIG = 1


class Decoder:
    """One process that decodes, begun anew whenever a photo has ended it. For one thread at a time."""

    def __init__(self, how: Preprocessing, limits: Limits) -> None:
        self._how, self._limits = how, limits
        self._process: subprocess.Popen[bytes] | None = None
        self._line: socket.socket | None = None
        self._shared: _Shared | None = None
        self._greeted = False

    def __call__(self, data: bytes, box: Box, uncut: bool = False) -> np.ndarray:
        """The part of a photo in a box as the network takes it, uint8 (side, side, 3).

        Raises:
            BadImage: why it cannot be had; `decoder_died` or `decode_timeout` if it has cost the process.
            ServiceError: the process does not start.
            RuntimeError: this code has failed.
        """
        try:
            what, told = self._asked(data, box, uncut)
        except ConnectionError:  # once may be the fault of somebody else, as of one who frees memory
            try:
                what, told = self._asked(data, box, uncut)
            except ConnectionError as error:
                raise BadImage("decoder_died", str(error)) from None
        if what == _BAD:
            raise BadImage(**json.loads(bytes(told)))
        if what == _BUG:
            raise RuntimeError(f"the decoder has failed:\n{bytes(told).decode()}")
        assert self._shared
        return self._shared.pixels(self._how).copy()

    def _asked(self, data: bytes, box: Box, uncut: bool) -> tuple[int, bytearray]:
        """What the process says of a photo.

        Raises:
            ConnectionError: it has died of it; how.
        """
        line = self._greet()
        ends = time.monotonic() + self._limits.decode_timeout_s
        try:
            line.settimeout(self._limits.decode_timeout_s)
            line.sendall(_ASKED.pack(len(data), *box, uncut))
            line.sendall(data)
            what, length = _TOLD.unpack(_exactly(line, _TOLD.size, ends))
            return what, _exactly(line, length, ends)
        except TimeoutError:
            self._end()
            raise BadImage("decode_timeout", f"over {self._limits.decode_timeout_s} s") from None
        except OSError:
            raise ConnectionError(self._end()) from None

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
        self._shared = _Shared(3 * self._how.side**2)
        given = {"how": asdict(self._how), "limits": self._limits.model_dump(), "parent": os.getpid()}
        given["shared"] = self._shared.fileno()
        command = [sys.executable, "-m", "likeness.decoding", str(theirs.fileno()), json.dumps(given)]
        # a job's archive is on sys.path, and may not be in the environment
        paths = os.pathsep.join([str(Path(__file__).parents[1]), *filter(None, [os.environ.get("PYTHONPATH")])])
        named = {**os.environ, **_KEPT, "PYTHONPATH": paths}
        with theirs:
            try:
                self._process = subprocess.Popen(
                    command, pass_fds=[theirs.fileno(), self._shared.fileno()], stdin=subprocess.DEVNULL, env=named
                )
            except OSError as error:
                self._shared.close()
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
        assert self._shared
        self._shared.close()
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


class _Shared:
    """Memory that two processes have in common, for what is too large to be sent for each photo."""

    def __init__(self, length: int, number: int | None = None) -> None:
        """New memory, or that of a file number that was handed over."""
        if number is not None:
            self._file: IO[bytes] = os.fdopen(number, "r+b", buffering=0)
        elif sys.platform == "linux":
            self._file = os.fdopen(os.memfd_create("likeness-decoder"), "r+b", buffering=0)
        else:
            self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - it lives as long as this
        self._file.truncate(length)
        self._map = mmap.mmap(self._file.fileno(), length)

    def close(self) -> None:
        """Lets go of it."""
        self._map.close()
        self._file.close()

    def fileno(self) -> int:
        """Of the memory, for the other process."""
        return self._file.fileno()

    def pixels(self, how: Preprocessing) -> np.ndarray:
        """What is in it, uint8 (side, side, 3)."""
        return np.frombuffer(self._map, np.uint8).reshape(how.side, how.side, 3)


def _serve(line: socket.socket, shared: np.ndarray, how: Preprocessing, limits: Limits) -> None:
    """Decodes what comes, until the other end is closed."""
    whole = replace(how, shape="squash", resize=how.side)
    line.sendall(_HELLO)
    while True:
        length, *box, uncut = _ASKED.unpack(_exactly(line, _ASKED.size))
        data = bytes(_exactly(line, length))
        try:
            shared[:] = prepared(data, (box[0], box[1], box[2], box[3]), whole if uncut else how, limits)
            what, told = _PIXELS, b""
        except BadImage as bad:
            what, told = _BAD, json.dumps({"reason": bad.reason, "detail": bad.detail}).encode()
        except Exception:  # of this code, not of the photo
            what, told = _BUG, traceback.format_exc().encode()
        line.sendall(_TOLD.pack(what, len(told)))
        line.sendall(told)


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
        kept = Preprocessing(**how)
        shared = _Shared(3 * kept.side**2, given["shared"])
        _serve(line, shared.pixels(kept), kept, Limits(**given["limits"]))


if __name__ == "__main__":
    _main(*sys.argv[1:])
