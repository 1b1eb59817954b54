"""What a decoder process runs: requests read from a socket, pixels written to shared memory, replies sent back.

The wire format is here; `likeness.images.decoder_process` is the other end.
"""

import ctypes
import json
import os
import signal
import socket
import struct
import sys
import time
import traceback
from contextlib import suppress
from dataclasses import replace

from pydantic import BaseModel

from likeness.core.settings import Limits
from likeness.images.image import BadImage, Preprocessing, preprocess
from likeness.images.shared_pixels import Handle, SharedPixels

COUNT = struct.Struct("<I")
REQUEST = struct.Struct("<I4d?i")
"""Of each photo: its length in bytes, the box, whether it is squashed, and the row for its pixels, or -1. The encoded
photos follow."""
REPLY = struct.Struct("<BI")
"""Of each photo: its status, and the length in bytes of its error text. The texts follow."""
DECODED, BAD_IMAGE, BUG = range(3)
"""Status: pixels are in the shared memory; the photo cannot be used; the decoder's code failed."""
READY = b"ready"
"""Sent once, when the process can decode."""
_PR_SET_PDEATHSIG = 1


class WorkerArguments(BaseModel):
    """Arguments of a decoder process.

    `shared` are the handles of its own memory and of the pool's rows; `nice` lowers the priority of its work.
    """

    preprocessing: Preprocessing
    limits: Limits
    parent: int
    shared: tuple[Handle, Handle]
    nice: int = 0


def receive(channel: socket.socket, length: int, deadline: float | None = None) -> bytearray:
    """Reads exactly `length` bytes, before a deadline of the monotonic clock if there is one.

    Raises:
        TimeoutError: the deadline passed.
        ConnectionError: the other end is closed.
    """
    buffer = bytearray(length)
    view, received = memoryview(buffer), 0
    while received < length:
        channel.settimeout(None if deadline is None else max(0.001, deadline - time.monotonic()))
        count = channel.recv_into(view[received:])
        if not count:
            raise ConnectionError("the other end is closed")
        received += count
    return buffer


def _serve(channel: socket.socket, arguments: WorkerArguments) -> None:
    """Decodes requests until the other end is closed."""
    preprocessing, (shared, rows) = arguments.preprocessing, (SharedPixels(*handle) for handle in arguments.shared)
    squashed = replace(preprocessing, shape="squash", resize=preprocessing.side)
    os.nice(arguments.nice)
    channel.sendall(READY)
    while True:
        (count,) = COUNT.unpack(receive(channel, COUNT.size))
        heads = list(REQUEST.iter_unpack(receive(channel, count * REQUEST.size)))
        photos = [bytes(receive(channel, length)) for length, *_ in heads]
        replies, texts = list[bytes](), list[bytes]()
        for number, (_, *box, squash, row) in enumerate(heads):
            try:
                pixels = preprocess(photos[number], (*box,), squashed if squash else preprocessing, arguments.limits)
                (shared.pixels[number] if row < 0 else rows.pixels[row])[:] = pixels
                status, text = DECODED, b""
            except BadImage as bad:
                status, text = BAD_IMAGE, json.dumps({"reason": bad.reason, "detail": bad.detail}).encode()
            except Exception:  # the fault of this code, not of the photo
                status, text = BUG, traceback.format_exc().encode()
            replies.append(REPLY.pack(status, len(text)))
            texts.append(text)
            shared.done += 1
        channel.sendall(b"".join(replies + texts))


def _main(fd: str, text: str) -> None:
    arguments = WorkerArguments.model_validate_json(text)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent
    if sys.platform == "linux":  # a decoder in an endless loop would not notice that its parent is gone
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != arguments.parent:
            return
    with socket.socket(fileno=int(fd)) as channel, suppress(ConnectionError):
        _serve(channel, arguments)


if __name__ == "__main__":
    _main(*sys.argv[1:])
