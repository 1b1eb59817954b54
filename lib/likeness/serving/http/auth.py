"""Who may ask, and how much: API keys, hashed in a file; a rate and a number at once for each.

A line of the file is `NAME SHA256`, of the key. `likeness key NAME` makes one; the file is read again when it changes.
"""

import hashlib
import hmac
import math
import re
import secrets
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from likeness.core.errors import UsageError
from likeness.core.settings import Serve
from likeness.serving.http.body_limit import Application, Receive, Scope, Send

OPEN = ("/", "/app.js", "/style.css", "/healthz", "/readyz")
"""What is answered to everybody: the page itself, which asks for a key, and what tells balancers how it is."""
_LINE = re.compile(r"(\S+)\s+([0-9a-f]{64})")
_LOOK_S = 1.0


def new_key(path: Path, name: str) -> str:
    """Adds a key to a file, which is made if it is missing; the key itself is kept nowhere.

    Raises:
        UsageError: the name is taken or holds spaces, or the file cannot be written.
    """
    if not name or re.search(r"\s", name) or name.startswith("#"):
        raise UsageError(f"key name {name!r}: give one without spaces that does not begin with #")
    if path.exists() and name in {known for known, _ in _read(path)}:
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
    found = []
    for number, line in enumerate(lines, 1):
        if line.strip() and not line.startswith("#"):
            match = _LINE.fullmatch(line.strip())
            if not match:
                raise UsageError(f"{path}:{number} is not NAME and the SHA-256 of a key; make it with `likeness key`")
            found.append((match[1], match[2]))
    return found


class Keys:
    """The keys of a file."""

    def __init__(self, path: Path) -> None:
        """Reads the file.

        Raises:
            UsageError: it cannot be read, or a line is not as it should be.
        """
        self._path = path
        self._known, self._changed, self._looked = _read(path), path.stat().st_mtime_ns, time.monotonic()

    def who(self, key: str) -> str | None:
        """The name of a key; None if it is none. It takes as long for a wrong one."""
        self._refresh()
        digest, found = hashlib.sha256(key.encode()).hexdigest(), None
        for name, known in self._known:
            found = name if hmac.compare_digest(digest, known) else found
        return found

    def _refresh(self) -> None:
        """A file that is gone or broken meanwhile changes nothing: keys go by a deleted line."""
        if time.monotonic() - self._looked < _LOOK_S:
            return
        self._looked = time.monotonic()
        try:
            changed = self._path.stat().st_mtime_ns
            if changed != self._changed:
                self._known, self._changed = _read(self._path), changed
        except (OSError, UsageError):
            return


@dataclass
class _Allowance:
    """What one asker has left: a bucket of `rate` requests that fills up in a second, and its requests at work."""

    rate: float
    left: float = field(init=False)
    filled: float = field(default_factory=time.monotonic)
    at_work: int = 0

    def __post_init__(self) -> None:
        self.left = max(1.0, self.rate)

    def wait(self) -> float:
        """Takes one request; or says in how many seconds there will be one."""
        now = time.monotonic()
        self.left = min(max(1.0, self.rate), self.left + (now - self.filled) * self.rate)
        self.filled = now
        if self.left < 1:
            return (1 - self.left) / self.rate
        self.left -= 1
        return 0.0


class AuthMiddleware:
    """ASGI middleware: lets those in who have a key, as fast and as many as they may.

    `refuse(code, detail, headers)` gives the response for `no_key` and `too_many`: an ASGI application. Without a file
    of keys all askers are one.
    """

    def __init__(
        self, app: Application, settings: Serve, refuse: Callable[[str, str, dict[str, str]], Application]
    ) -> None:
        self._app, self._settings, self._refuse = app, settings, refuse
        self._keys = Keys(Path(settings.keys)) if settings.keys else None
        self._allowances: dict[str, _Allowance] = {}
        self._guard = threading.Lock()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, or refuses it."""
        if scope["type"] != "http" or scope["path"] in OPEN or scope["method"] == "OPTIONS":
            return await self._app(scope, receive, send)
        name = self._who(scope)
        if name is None:
            told = "give a key as `Authorization: Bearer KEY` or `X-API-Key: KEY`"
            return await self._refuse("no_key", told, {"WWW-Authenticate": "Bearer"})(scope, receive, send)
        with self._entered(name) as wait:
            if not wait:
                return await self._app(scope, receive, send)
        told = f"{name} may ask {self._settings.rate:g} times a second and {self._settings.at_once} at once"
        return await self._refuse("too_many", told, {"Retry-After": str(math.ceil(wait))})(scope, receive, send)

    def _who(self, scope: Scope) -> str | None:
        if self._keys is None:
            return "everybody"
        headers = {name: value.decode("latin-1") for name, value in scope["headers"]}
        kind, _, key = headers.get(b"authorization", "").partition(" ")
        given = key.strip() if kind.lower() == "bearer" else headers.get(b"x-api-key", "")
        return self._keys.who(given) if given else None

    @contextmanager
    def _entered(self, name: str) -> Iterator[float]:
        """Seconds to wait before another try; 0 for one who is in."""
        rate, most = self._settings.rate, self._settings.at_once
        with self._guard:
            mine = self._allowances.setdefault(name, _Allowance(rate))
            wait = 1.0 if most and mine.at_work >= most else mine.wait() if rate else 0.0
            mine.at_work += not wait
        try:
            yield wait
        finally:
            with self._guard:
                mine.at_work -= not wait
