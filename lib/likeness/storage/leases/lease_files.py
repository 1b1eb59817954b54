"""The lease files of a root: what each says of its holder, and whether that process is alive."""

import os
import re
import socket
import time
from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError

EXPIRY_S = 60.0
"""Seconds without a heartbeat after which a holder on another machine counts as dead."""
_FILE = re.compile(r"(.+)\.([0-9]+)\.json")


class DamagedLeaseError(ServiceError):
    """A lease file cannot be parsed."""


class LeaseHeldError(ServiceError):
    """Another run holds the lease."""


class LeaseRecord(BaseModel):
    """The content of a lease file: who took the lease, and its state at the last heartbeat (`beat`, a Unix time).

    `state` is `held`, `released` by its holder, or `abandoned`: released after its holder had died, or by a holder that
    could not write its row of `runs`. `born` tells a process from a later one of the same number.
    """

    model_config = ConfigDict(frozen=True)

    run_id: str
    job: str = ""
    started: str = ""
    host: str
    pid: int
    born: str | None
    token: str
    state: str
    beat: float

    def is_alive(self) -> bool:
        """Whether the lease is held by a running process; on another machine, by one that was alive EXPIRY_S ago."""
        if self.state != "held":
            return False
        if self.host == socket.gethostname():
            return self.born == process_birth(self.pid)
        return time.time() - self.beat < EXPIRY_S


class LeaseFiles:
    """The files `<name>.<generation>.json` of the leases of one root."""

    def __init__(self, root: str) -> None:
        self.folder = uris.join(uris.canonical(root), "leases")
        self._files = storage.files(self.folder)

    def generations(self) -> dict[str, int]:
        """The latest generation of every lease by name, sorted by name."""
        generations: dict[str, int] = {}
        for file in self._files.names(self.folder):
            if match := _FILE.fullmatch(file):
                generations[match[1]] = max(generations.get(match[1], 0), int(match[2]))
        return dict(sorted(generations.items()))

    def latest(self, name: str) -> tuple[int, LeaseRecord | None]:
        """The latest generation of a lease and its record; (0, None) if it was never taken.

        Raises:
            DamagedLeaseError: its file cannot be parsed.
        """
        generation = self.generations().get(name, 0)
        if not generation:
            return 0, None
        path = self._path(name, generation)
        try:
            return generation, LeaseRecord.model_validate_json(self._files.read(path))
        except FileNotFoundError:  # replaced by a later generation since it was listed
            return self.latest(name)
        except ValidationError:
            raise DamagedLeaseError(
                f"the lease {path} is damaged; if no run is at work on this root, delete it, "
                f"or run `likeness unlock --name {name} --force`"
            ) from None

    def create_next(self, name: str, latest: int, record: LeaseRecord) -> None:
        """Creates the generation after the latest one, and deletes older ones.

        Raises:
            LeaseHeldError: another run has created it just before.
        """
        try:
            self._files.create(self._path(name, latest + 1), record.model_dump_json().encode())
        except FileExistsError:
            raise LeaseHeldError(f"another run has just taken {name} of this root; wait for it to end") from None
        for generation in range(max(1, latest - 3), latest + 1):
            self._files.delete(self._path(name, generation))

    def write(self, name: str, generation: int, record: LeaseRecord) -> None:
        """Replaces the record of a generation."""
        self._files.write(self._path(name, generation), record.model_dump_json().encode())

    def _path(self, name: str, generation: int) -> str:
        return uris.join(self.folder, f"{name}.{generation}.json")


def process_birth(pid: int) -> str | None:
    """The start time of a process in the system's clock ticks; None if there is no such process."""
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
