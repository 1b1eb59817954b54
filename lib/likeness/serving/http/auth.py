"""API keys, stored as hashes in a file; each has a rate limit.

A line of the file is `NAME SHA256`, of the key. `likeness key NAME` makes one; the file is read again when it changes.
"""

import hashlib
import hmac
import math
import re
import secrets
import time
from collections.abc import Callable, Collection
from contextlib import suppress
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from likeness.core.errors import UsageError
from likeness.core.settings import Serve
from likeness.serving.http.middleware import HEALTH
from likeness.serving.http.pages import CONTRACT, PAGES
from likeness.serving.http.shared_counts import SharedCounts

OPEN = frozenset((*PAGES, *HEALTH, CONTRACT))
"""Paths open without a key: the pages, which ask for one, the contract, and the health checks of load balancers."""
IMAGES = "/v1/images/"
"""Thumbnails are below this path: they are counted apart, because a page of results shows many."""
NOBODY = "-"
"""The caller of a request without a key that counts."""
_IMAGES_EACH, _IMAGES_BURST = 50, 100
"""Thumbnails for each request of a caller's rate; at least so many in a row."""
_LINE = re.compile(r"(\S+)\s+([0-9a-f]{64})")
_POLL_S = 1.0


def new_key(path: Path, name: str) -> str:
    """Creates a key and adds its hash to a file, created if it is missing; the key itself is stored nowhere.

    Raises:
        UsageError: the name is taken or holds spaces, or the file cannot be written.
    """
    if not name or re.search(r"\s", name) or name.startswith("#"):
        raise UsageError(f"key name {name!r}: give one without spaces that does not begin with #")
    if path.exists() and name in {taken for taken, _ in _read(path)}:
        raise UsageError(f"{path} has a key named {name}; delete its line to revoke it, or take another name")
    key = secrets.token_urlsafe(32)
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(f"{name} {hashlib.sha256(key.encode()).hexdigest()}\n")
        path.chmod(0o600)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}; name a file that can be written") from None
    return key


def _read(path: Path) -> list[tuple[str, str]]:
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"serve.keys = {str(path)!r} cannot be read: {error}; make it with `likeness key`") from None
    entries = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise UsageError(f"{path}:{number} is not NAME and the SHA-256 of a key; make it with `likeness key`")
            entries.append((match[1], match[2]))
    return entries


class Keys:
    """The API keys of a file."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            UsageError: the file cannot be read, has no key, or a line is malformed.
        """
        self._path = path
        self._entries, self._changed, self._checked = _read(path), path.stat().st_mtime_ns, time.monotonic()
        if not self._entries:
            raise UsageError(
                f"serve.keys = {str(path)!r} has no key, so nobody could query; make one with `likeness key`"
            )

    def owner(self, key: str) -> str | None:
        """The name of a key; None if there is no such key. A wrong key takes as long as a right one."""
        self._refresh()
        digest, owner = hashlib.sha256(key.encode()).hexdigest(), None
        for name, stored in self._entries:
            owner = name if hmac.compare_digest(digest, stored) else owner
        return owner

    def _refresh(self) -> None:
        """Reads a changed file again; one that is gone or broken revokes no key."""
        if time.monotonic() - self._checked < _POLL_S:
            return
        self._checked = time.monotonic()
        with suppress(OSError, UsageError):
            changed = self._path.stat().st_mtime_ns
            if changed != self._changed:
                self._entries, self._changed = _read(self._path), changed


def has_right(state: object, names: Collection[str]) -> bool:
    """Whether a setting that names keys, such as `serve.builds`, names the key of a request, by its `state`."""
    return "*" in names or getattr(state, "caller", NOBODY) in names


class AuthMiddleware:
    """ASGI middleware: passes on requests with a key, within the rate of that key.

    `refuse(code, detail, headers)` gives the response for `no_key` and `too_many`: an ASGI application. Without keys
    all callers share one quota.
    """

    def __init__(
        self,
        app: ASGIApp,
        settings: Serve,
        keys: Keys | None,
        counts: SharedCounts,
        refuse: Callable[[str, str, dict[str, str]], ASGIApp],
    ) -> None:
        self._app, self._settings, self._keys, self._refuse = app, settings, keys, refuse
        self._counts = counts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return await self._app(scope, receive, send)
        name = self._caller(scope)
        if name is None:
            detail = "give a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            return await self._refuse("no_key", detail, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        state, images = scope.setdefault("state", {}), scope["path"].startswith(IMAGES)
        state["caller"], state["key"] = name, name if self._keys else ""
        if not self._settings.rate:
            return await self._app(scope, receive, send)
        rate = self._settings.rate * (_IMAGES_EACH if images else 1)
        most, what = max(_IMAGES_BURST if images else 1, rate), "thumbnails" if images else "requests"
        wait = self._counts.wait(f"{what} of {name}", rate, most)
        if not wait:
            return await self._app(scope, receive, send)
        detail = f"{name} may send {rate:g} {what} a second"
        return await self._refuse("too_many", detail, {"Retry-After": str(math.ceil(wait))})(scope, receive, send)

    def _caller(self, scope: Scope) -> str | None:
        if self._keys is None:
            return "everybody"
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        sent = key.strip() if kind.lower() == "bearer" else headers.get(b"x-api-key", "")
        return self._keys.owner(sent) if sent else None
