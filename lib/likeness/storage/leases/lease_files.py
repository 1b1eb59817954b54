"""The files of a root's leases: who holds which, and whether they live."""

import json
import os
import re
import socket
import time
from pathlib import Path
from typing import Any

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError

EXPIRY_S = 60.0
NEEDED = ("run_id", "host", "pid", "born", "token", "state", "beat")
"""What every lease says of itself; `state` is held, released (given back) or abandoned (taken from a dead run)."""
_FILE = re.compile(r"(.+)\.([0-9]+)\.json")


class DamagedLease(ServiceError):
    """A lease that says nothing of use."""


class HeldLease(ServiceError):
    """A lease that another run holds."""


class LeaseFiles:
    """The files `<name>.<generation>.json` of one root's leases."""

    def __init__(self, root: str) -> None:
        self.folder = uris.join(uris.canonical(root), "leases")
        self._files = storage.files(self.folder)

    def all(self) -> dict[str, int]:
        """The latest generation of every lease by its name, in the order of the names."""
        found: dict[str, int] = {}
        for file in self._files.names(self.folder):
            if match := _FILE.fullmatch(file):
                found[match[1]] = max(found.get(match[1], 0), int(match[2]))
        return dict(sorted(found.items()))

    def latest(self, name: str) -> tuple[int, dict[str, Any] | None]:
        """The latest generation of a lease, and what it says; (0, None) if it was never taken.

        Raises:
            DamagedLease: it says nothing of use.
        """
        generation = self.all().get(name, 0)
        if not generation:
            return 0, None
        path = self._path(name, generation)
        try:
            holder = json.loads(self._files.read(path))
        except FileNotFoundError:  # replaced by a younger one since it was listed
            return self.latest(name)
        except ValueError:
            holder = None
        if not isinstance(holder, dict) or not holder.keys() >= set(NEEDED):
            raise DamagedLease(
                f"the lease {path} is damaged; if no run is at work on this root, delete it, "
                f"or let `likeness unlock --name {name} --force` do so"
            )
        return generation, holder

    def follow(self, name: str, before: int, state: bytes) -> None:
        """Makes the generation after `before`, and clears the older ones away.

        Raises:
            HeldLease: another was faster.
        """
        try:
            self._files.create(self._path(name, before + 1), state)
        except FileExistsError:
            raise HeldLease(f"{name} of this root was taken by another run just now; wait for it") from None
        for generation in range(max(1, before - 3), before + 1):
            self._files.delete(self._path(name, generation))

    def write(self, name: str, generation: int, state: bytes) -> None:
        """Replaces what a generation says."""
        self._files.write(self._path(name, generation), state)

    def _path(self, name: str, generation: int) -> str:
        return uris.join(self.folder, f"{name}.{generation}.json")


def alive(holder: dict[str, Any]) -> bool:
    """Whether a lease is held by a process that lives, or, on another machine, did so EXPIRY_S ago."""
    if holder["state"] != "held":
        return False
    if holder["host"] == socket.gethostname():
        return bool(holder["born"] == born(holder["pid"]))
    return bool(time.time() - holder["beat"] < EXPIRY_S)


def born(pid: int) -> str | None:
    """What tells a process from a later one of the same number; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
        return None if fields[0] == "Z" else fields[19]
    except OSError:
        if Path("/proc/self/stat").exists():
            return None
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return None
    except PermissionError:
        return "unknown"
    return "unknown"
