"""A decoder in a process of its own: encoded photos in, pixels for the network or the reason of a failure out.

A photo that crashes or hangs the decoder ends only this process.
"""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from likeness.core.errors import ServiceError
from likeness.core.settings import Limits
from likeness.images.decoder_worker import BAD_IMAGE, BUG, COUNT, READY, REPLY, REQUEST, WorkerArguments, receive
from likeness.images.image import WHOLE, BadImage, Box, Preprocessing
from likeness.images.shared_pixels import SharedPixels

MAX_BATCH = 8
"""Photos of one request, at most: each request costs a switch between processes."""
_MALLOC = {"MALLOC_MMAP_THRESHOLD_": str(1 << 25), "MALLOC_TRIM_THRESHOLD_": str(1 << 26)}
"""For glibc: memory of one photo is kept for the next, else each costs a hundred page faults; more is released."""
_BUFFER = 1 << 20
_START_S = 60.0


@dataclass(frozen=True)
class DecodeRequest:
    """A photo to decode: the part in `box`, or with `squash` all of it resized to a square.

    The pixels are written to a row of the `SharedPixels` that the decoder has, or to new memory.
    """

    data: bytes
    box: Box = WHOLE
    squash: bool = False
    row: int | None = None


class Decoder:
    """One decoder process, started again whenever a photo has ended it. Not thread-safe.

    Args:
        preprocessing: what the network expects.
        limits: what one photo may cost.
        rows: memory for pixels; nobody else writes to a row while its photo is decoded.
        nice: by how much the process yields to others, 0 to 19.
    """

    def __init__(self, preprocessing: Preprocessing, limits: Limits, rows: SharedPixels, nice: int = 0) -> None:
        self._preprocessing, self._limits, self._rows, self._nice = preprocessing, limits, rows, nice
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._shared: SharedPixels | None = None
        self._ready = False

    def __call__(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray | BadImage]:
        """Decodes at most `MAX_BATCH` photos to pixels, or to the reason of the failure.

        Photos that ended the process fail with `decoder_died` or `decode_timeout`.

        Raises:
            ServiceError: the process does not start.
            RuntimeError: the decoder's code failed.
        """
        if len(requests) > 1:
            with suppress(TimeoutError, ConnectionError):
                return self._exchange(requests)
            return [outcome for request in requests for outcome in self([request])]  # finds the photo at fault
        try:
            with suppress(ConnectionError):  # the first death may have another cause, as a system out of memory
                return self._exchange(requests)
            return self._exchange(requests)
        except ConnectionError as error:
            return [BadImage("decoder_died", str(error))]
        except TimeoutError:
            return [BadImage("decode_timeout", f"over {self._limits.decode_timeout_s} s")]

    def _exchange(self, requests: Sequence[DecodeRequest]) -> list[np.ndarray | BadImage]:
        """Sends photos to the process, and reads its reply.

        Raises:
            TimeoutError: a photo takes too long.
            ConnectionError: the process died; its text says how.
        """
        channel = self._connect()
        heads = [
            REQUEST.pack(len(one.data), *one.box, one.squash, -1 if one.row is None else one.row) for one in requests
        ]
        try:
            channel.settimeout(self._limits.decode_timeout_s)
            channel.sendall(b"".join([COUNT.pack(len(requests)), *heads, *(one.data for one in requests)]))
            self._await_reply(channel)
            deadline = time.monotonic() + self._limits.decode_timeout_s
            replies = list(REPLY.iter_unpack(receive(channel, len(requests) * REPLY.size, deadline)))
            texts = [bytes(receive(channel, length, deadline)) if length else b"" for _, length in replies]
        except TimeoutError:
            self._kill()
            raise
        except OSError:
            raise ConnectionError(self._kill()) from None
        return [
            self._outcome(number, status, text, requests[number].row)
            for number, ((status, _), text) in enumerate(zip(replies, texts, strict=True))
        ]

    def _await_reply(self, channel: socket.socket) -> None:
        """Waits for the reply as long as each photo is done within its time limit.

        Raises:
            TimeoutError: no photo was done within the limit.
        """
        assert self._shared
        while True:
            done = self._shared.done
            try:
                channel.recv(1, socket.MSG_PEEK)
                return
            except TimeoutError:
                if self._shared.done == done:
                    raise

    def _outcome(self, number: int, status: int, text: bytes, row: int | None) -> np.ndarray | BadImage:
        if status == BAD_IMAGE:
            return BadImage(**json.loads(text))
        if status == BUG:
            raise RuntimeError(f"the decoder has failed:\n{text.decode()}")
        assert self._shared
        pixels: np.ndarray = self._shared.pixels[number].copy() if row is None else self._rows.pixels[row]
        return pixels

    def start(self) -> None:
        """Starts the process unless it runs; it is ready some tenths of a second later.

        Raises:
            ServiceError: it cannot be started.
        """
        if self._process is not None:
            return
        self._socket, child_socket = socket.socketpair()
        for end in (self._socket, child_socket):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        self._shared = SharedPixels(MAX_BATCH, self._preprocessing.side)
        handles = (self._shared.handle, self._rows.handle)
        arguments = WorkerArguments(
            preprocessing=self._preprocessing,
            limits=self._limits,
            parent=os.getpid(),
            shared=handles,
            nice=self._nice,
        )
        module = "likeness.images.decoder_worker"
        command = [sys.executable, "-m", module, str(child_socket.fileno()), arguments.model_dump_json()]
        # a job's archive is on sys.path, and may not be in the environment
        paths = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
        environment = {**os.environ, **_MALLOC, "PYTHONPATH": paths}
        with child_socket:
            try:
                files = [child_socket.fileno(), *(descriptor for _, _, descriptor in handles)]
                self._process = subprocess.Popen(command, pass_fds=files, stdin=subprocess.DEVNULL, env=environment)
            except OSError as error:
                raise ServiceError(f"a decoder process cannot be started: {error}") from None

    def close(self) -> None:
        """Ends the process."""
        if self._process is not None:
            self._kill()

    def _connect(self) -> socket.socket:
        """Waits until the process is ready: the time of its start does not count against a photo."""
        self.start()
        assert self._socket
        if not self._ready:
            try:
                receive(self._socket, len(READY), time.monotonic() + _START_S)
            except OSError:
                raise ServiceError(
                    f"a decoder process does not start: {self._kill()}; its output may say why"
                ) from None
            self._ready = True
        return self._socket

    def _kill(self) -> str:
        """Ends the process; returns how it ended by itself, or that it hung."""
        assert self._process
        assert self._socket
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(0.1)
        code = self._process.poll()
        self._process.kill()
        self._process.wait()
        self._socket.close()
        self._process = self._socket = self._shared = None
        self._ready = False
        if code is None:
            return "it hung"
        return f"signal {-code}" if code < 0 else f"exit code {code}"
