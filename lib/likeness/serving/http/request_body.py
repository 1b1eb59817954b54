"""Request bodies: read whole into memory before the application starts, within bounds of bytes and time.

[python-multipart]
"""

import asyncio
import sys
from collections.abc import Callable, Mapping

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header
from starlette.formparsers import MultiPartParser
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from likeness.core.errors import UsageError
from likeness.core.settings import Serve
from likeness.serving.http.clients import client_of
from likeness.serving.http.shared_counts import SharedCounts

FORM_BYTES = 1 << 20
"""Bytes of a form beside its photos."""
_OTHER_BYTES = 8 << 20
"""Bytes of a body that is no form with photos: 64 vectors of 4,096 dimensions as JSON take 6 MB at most."""
_FORM = b"multipart/form-data"
_ALL_BODIES = "bytes"
_PIECE = 1 << 18
"""Bytes that the application gets at once; other requests have their turn in between."""

Refuse = Callable[[str, str, dict[str, str]], ASGIApp]
"""`refuse(code, detail, headers)` gives a response."""


class _RefusedBody(Exception):
    """A body that is not taken, with the code and the headers of the response."""

    def __init__(self, code: str, detail: str, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.code, self.headers = code, dict(headers or {})


class BytesInFlight:
    """The bytes of all bodies in memory, of all processes of the server: at most `most`.

    A client may hold as many as it leaves free: half of them alone, a third beside one other that takes all it can, so
    that some are always left for one that comes anew (dynamic thresholds, Choudhury and Hahne 1998).
    """

    def __init__(self, most: int, counts: SharedCounts) -> None:
        self.most, self._counts = most, counts

    @property
    def total(self) -> int:
        """The bytes in memory."""
        return self._counts.count(_ALL_BODIES)

    def has_room(self, client: str, count: int) -> bool:
        """Whether a client may hold so many more bytes."""
        return self._counts.count(f"{_ALL_BODIES} {client}") + count <= self.most - self.total

    def take(self, client: str, count: int) -> None:
        """Counts bytes that a client holds."""
        for name in (_ALL_BODIES, f"{_ALL_BODIES} {client}"):
            self._counts.hold(name, count)

    def release(self, client: str, count: int) -> None:
        """Counts bytes that a client holds no more."""
        self.take(client, -count)


class RequestBodyMiddleware:
    """ASGI middleware: passes on requests whose body has arrived whole; the body is held in memory meanwhile.

    `refuse` gives the response for `too_large`, `slow` and `overloaded`.
    """

    def __init__(self, app: ASGIApp, settings: Serve, counts: SharedCounts, refuse: Refuse) -> None:
        self._app, self._settings, self._refuse = app, settings, refuse
        self._in_flight = BytesInFlight(settings.bytes_in_flight, counts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Reads the body, and passes the request on, or refuses it."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        if headers.keys().isdisjoint((b"content-length", b"transfer-encoding")):
            return await self._app(scope, receive, send)
        client, body = client_of(scope), bytearray()
        try:
            await self._read(client, headers, receive, body)
        except _RefusedBody as refused:
            self._in_flight.release(client, len(body))
            body.clear()
            return await self._refuse(refused.code, str(refused), refused.headers)(scope, receive, send)
        except BaseException:
            self._in_flight.release(client, len(body))
            raise
        size = len(body)
        try:
            return await self._app(scope, _replay(body, receive), send)
        finally:
            self._in_flight.release(client, size)

    async def _read(self, client: str, headers: Mapping[bytes, bytes], receive: Receive, body: bytearray) -> None:
        """Adds the body to `body` as it arrives.

        Raises:
            _RefusedBody: it is too large or too slow, or there is no room for it.
        """
        check = _SizeCheck(self._settings, headers.get(b"content-type", b""))
        length = headers.get(b"content-length", b"")
        check.whole(int(length) if length.isdigit() else 0)
        self._require_room(client, int(length) if length.isdigit() else 0)
        try:
            async with asyncio.timeout(self._settings.body_s):
                more = True
                while more:
                    message = await receive()
                    if message["type"] != "http.request":
                        raise _RefusedBody("slow", "the connection was closed before the body was whole")
                    chunk, more = message.get("body", b""), message.get("more_body", False)
                    self._require_room(client, len(chunk))
                    self._in_flight.take(client, len(chunk))
                    body += chunk
                    check.whole(len(body))
                    check.parts(chunk)
        except TimeoutError:
            raise _RefusedBody(
                "slow", f"the body did not arrive within serve.body_s = {self._settings.body_s} seconds; send it faster"
            ) from None

    def _require_room(self, client: str, count: int) -> None:
        if not self._in_flight.has_room(client, count):
            raise _RefusedBody(
                "overloaded",
                f"{self._in_flight.total} bytes of requests are in memory, serve.bytes_in_flight is "
                f"{self._in_flight.most}; try again, or send fewer at once",
                {"Retry-After": "1"},
            )


class _SizeCheck:
    """Checks the sizes of a body and of each part of a form, as they arrive."""

    def __init__(self, settings: Serve, content_type: bytes) -> None:
        self._settings, self._part, self._largest = settings, 0, 0
        kind, options = parse_options_header(content_type)
        self._most = settings.max_photo_bytes + FORM_BYTES if kind == _FORM else _OTHER_BYTES
        boundary = options.get(b"boundary")
        self._parser: MultipartParser | None = None
        if kind == _FORM and boundary:
            self._parser = MultipartParser(
                boundary, {"on_part_begin": self._begin_part, "on_part_data": self._add_to_part}
            )

    def whole(self, size: int) -> None:
        """Checks the bytes of the body, announced or arrived.

        Raises:
            _RefusedBody: they are too many.
        """
        if size > self._most:
            raise _RefusedBody(
                "too_large",
                f"a body of at most {self._most} bytes is taken here; a form holds serve.photos_max = "
                f"{self._settings.photos_max} photos of serve.max_bytes = {self._settings.max_bytes} at most",
            )

    def parts(self, chunk: bytes) -> None:
        """Checks the parts of a form so far.

        Raises:
            _RefusedBody: a part has too many bytes.
        """
        if self._parser is None:
            return
        try:
            self._parser.write(chunk)
        except FormParserError:  # the application says what is wrong with it
            self._parser = None
            return
        if self._largest > self._settings.max_bytes:
            raise _RefusedBody(
                "too_large", f"a photo of at most serve.max_bytes = {self._settings.max_bytes} bytes is taken"
            )

    def _begin_part(self) -> None:
        self._part = 0

    def _add_to_part(self, data: bytes, start: int, end: int) -> None:
        self._part += end - start
        self._largest = max(self._largest, self._part)


def prepare_bodies(settings: Serve) -> None:
    """Checks the bounds of bodies, and makes Starlette keep the parts of forms in memory, as their size is bounded.

    Raises:
        UsageError: `serve.bytes_in_flight` is too small for the largest body that is taken.
    """
    least = 2 * max(settings.max_photo_bytes + FORM_BYTES, _OTHER_BYTES)
    if settings.bytes_in_flight < least:
        raise UsageError(
            f"serve.bytes_in_flight is {settings.bytes_in_flight}; {least} or more are needed for two bodies of "
            "serve.photos_max photos of serve.max_bytes"
        )
    MultiPartParser.spool_max_size = sys.maxsize


def _replay(body: bytearray, receive: Receive) -> Receive:
    """Gives the application a body piece by piece, freeing what it has got; then what the connection says."""
    whole = False

    async def replayed() -> Message:
        nonlocal whole
        if whole:
            return await receive()
        piece = bytes(body[:_PIECE])
        del body[:_PIECE]
        whole = not body
        await asyncio.sleep(0)
        return {"type": "http.request", "body": piece, "more_body": not whole}

    return replayed
