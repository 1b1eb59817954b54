"""Published builds: a file `CURRENT` in each space's folder names the build in service and those before it.

It is replaced by one rename, so a reader sees one chain or the other. Roots of the version before have one
`builds/CURRENT` for all spaces: it is read as long as it is there, and the first change splits it by space.

A rollback pins the build that it puts in service: no run publishes another one until the pin is removed.
"""

import datetime
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass

from pydantic import BaseModel

from likeness import storage
from likeness.core import uris
from likeness.core.errors import DataError

CURRENT = "CURRENT"


class Chain(BaseModel):
    """The published builds of a space by name, newest first, and when `current` was put in service (ISO 8601).

    `pinned` is when a rollback pinned `current`; empty if it is not pinned.
    """

    current: str
    previous: Sequence[str]
    published: str = ""
    pinned: str = ""

    @property
    def builds(self) -> list[str]:
        """All of them."""
        return [self.current, *self.previous]


@dataclass(frozen=True)
class Pin:
    """A build in service, `space/build`, that a rollback has pinned, and when it did (ISO 8601)."""

    path: str
    since: str

    def __str__(self) -> str:
        return (
            f"a rollback put {self.path} in service at {self.since[:16]} UTC, and it is pinned until "
            "`./spark-submit.sh publish` or `likeness rollback --release`"
        )


class Published:
    """The chains of all spaces of a builds folder.

    `configured` are the spaces to serve, with or without their hash, the default first. Without any, the space that
    was published last is served.
    """

    def __init__(self, folder: str, configured: Sequence[str] = ()) -> None:
        self.configured = tuple(configured)
        self._folder, self._files = folder, storage.files(folder)

    def spaces(self) -> list[str]:
        """The spaces in service, the default first."""
        chains = self.chains()
        if not self.configured:
            return list(chains)[:1]
        names = (_match(name, chains) for name in self.configured)
        return list(dict.fromkeys(name for name in names if name in chains))

    def resolve(self, space: str = "") -> str:
        """The full name of a space, given with or without its hash; of the default space if empty.

        Empty if nothing is published; unchanged if nothing of the space is.
        """
        name = space or next(iter(self.configured), "")
        return name if "@" in name else _match(name, self.chains())

    def chain(self, space: str) -> Chain | None:
        """The chain of a space by its full name; None before its first publication.

        Raises:
            DataError: its CURRENT is damaged.
        """
        if legacy := self._legacy():
            return legacy.get(space)
        return self._read(f"{space}/{CURRENT}") if space else None

    def chains(self) -> dict[str, Chain]:
        """The chain of each space that has one; the space published last comes first, then by name.

        Raises:
            DataError: a CURRENT is damaged.
        """
        if legacy := self._legacy():
            return legacy
        names = [name for name in self._files.names(self._folder) if name != CURRENT and not name.startswith(".")]
        chains = {name: chain for name in names if (chain := self._read(f"{name}/{CURRENT}"))}
        return dict(sorted(chains.items(), key=lambda pair: pair[1].published, reverse=True))

    def files(self) -> list[str]:
        """The names of the CURRENT files in the builds folder."""
        legacy = self._files.exists(uris.join(self._folder, CURRENT))
        return [CURRENT] if legacy else [f"{space}/{CURRENT}" for space in self.chains()]

    def pins(self, space: str) -> list[Pin]:
        """The pinned builds that a build of a space, by its full name, would take out of service.

        Where no setting says which spaces are in service, a publication of another space takes the default one out.

        Raises:
            DataError: a CURRENT is damaged.
        """
        names = dict.fromkeys([space] if self.configured else [space, *self.spaces()])
        chains = ((name, self.chain(name)) for name in names)
        return [Pin(f"{name}/{chain.current}", chain.pinned) for name, chain in chains if chain and chain.pinned]

    def write(self, space: str, paths: Sequence[str], published: str = "", pin: bool | None = None) -> None:
        """Publishes builds of a space.

        Args:
            space: its full name.
            paths: `space/build`s, the one in service first; none takes the space out of service.
            published: when (ISO 8601); now if empty.
            pin: whether the build in service is pinned from now on; None leaves that as it is.
        """
        chains, before = dict[str, Chain](), None
        with suppress(DataError):  # a damaged file is replaced
            chains, before = self._legacy(), self.chain(space)
        chains.pop(space, None)
        if paths:
            current, *previous = (path.partition("/")[2] for path in paths)
            now = _iso(time.time())
            pinned = (before.pinned if before else "") if pin is None else now * pin
            chains[space] = Chain(current=current, previous=previous, published=published or now, pinned=pinned)
        for name, chain in chains.items():
            uri = uris.join(self._folder, name, CURRENT)
            self._files.write(uri, chain.model_dump_json(indent=2).encode() + b"\n")
        if not paths:
            self._files.delete(uris.join(self._folder, space, CURRENT))
        self._files.delete(uris.join(self._folder, CURRENT))  # last: until here it is what readers see

    def _legacy(self) -> dict[str, Chain]:
        """The chains of a root with one CURRENT, by space; times before any other keep the order of the spaces."""
        builds: dict[str, list[str]] = {}
        legacy = self._read(CURRENT)
        for path in legacy.builds if legacy else ():
            space, _, build = path.partition("/")
            builds.setdefault(space, []).append(build)
        return {
            space: Chain(current=names[0], previous=names[1:], published=_iso(-place))
            for place, (space, names) in enumerate(builds.items())
        }

    def _read(self, name: str) -> Chain | None:
        uri = uris.join(self._folder, name)
        try:
            return Chain.model_validate_json(self._files.read(uri))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except ValueError:
            raise DataError(f"{uri} is damaged", "write it anew with `likeness rollback --to BUILD`") from None


def _match(name: str, spaces: Sequence[str] | dict[str, Chain]) -> str:
    """The first of the spaces that a name with or without its hash means; the first of all if the name is empty."""
    return next((space for space in spaces if not name or name in (space, space.partition("@")[0])), name)


def _iso(seconds: float) -> str:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).isoformat(timespec="microseconds")
