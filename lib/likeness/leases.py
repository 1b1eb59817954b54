"""Leases: a name in a root that one run at a time may hold. Files in, a held lease or a clear refusal out.

A lease is the highest numbered file `<name>.<generation>.json` of ROOT/leases. Taking it is the exclusive
creation of the next generation, so of two takers one wins, and a holder that lost it can tell.
"""

import datetime
import json
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any

from likeness import stores, uris
from likeness.errors import ServiceError

HEARTBEAT_S = 10.0
EXPIRY_S = 60.0
_NEEDED = {"run_id", "host", "pid", "born", "token", "state", "beat"}


def run_name(job: str) -> str:
    """A new run's id: names sort by age."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{job}-{os.urandom(3).hex()}"


class Lease:
    """Held from `with` to its end; a dead holder on this machine is replaced at once, another after EXPIRY_S."""

    def __init__(self, root: str, name: str, holder: Mapping[str, str]) -> None:
        """`holder` says who takes it: run_id, job and when it started."""
        self.replaced: dict[str, Any] | None = None
        self._folder = uris.join(uris.canonical(root), "leases")
        self._files = stores.files(self._folder)
        self._name, self._token = name, uuid.uuid4().hex
        self._holder = {
            **holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": _born(os.getpid()),
            "token": self._token,
        }
        self._generation = 0
        self._stop = threading.Event()
        self._beat = threading.Thread(target=self._heartbeat, name=f"lease-{name}", daemon=True)

    def __enter__(self) -> "Lease":
        try:
            self._take()
        except OSError as error:
            raise ServiceError(
                f"the lease {self._name} in {self._folder} cannot be taken: {error}; name a root that can be written"
            ) from None
        self._beat.start()
        return self

    def _take(self) -> None:
        before, holder = self._latest()
        if holder and _alive(holder):
            raise ServiceError(
                f"{self._name} of this root is held by run {holder['run_id']} "
                f"(process {holder['pid']} on {holder['host']}); wait for it to end, or stop it"
            )
        self.replaced = holder if holder and holder["state"] == "held" else None
        self._generation = before + 1
        try:
            self._files.create(self._path(self._generation), self._state("held"))
        except FileExistsError:
            raise ServiceError(f"{self._name} of this root was taken by another run just now; wait for it") from None
        self.check()
        for generation in range(max(1, before - 3), self._generation):
            self._files.delete(self._path(generation))

    def check(self) -> None:
        """Called before each commit.

        Raises:
            ServiceError: another run has taken over.
        """
        latest, holder = self._latest()
        if latest != self._generation or not holder or holder["token"] != self._token:
            raise ServiceError(f"the lease {self._name} was taken over by another run; this one stops before a commit")

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join()
        with suppress(OSError, ServiceError):  # what cannot be given back ends with this process
            if self._latest()[0] == self._generation:
                self._files.write(self._path(self._generation), self._state("released"))

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                if self._latest()[0] == self._generation:
                    self._files.write(self._path(self._generation), self._state("held"))
            except (OSError, ServiceError):
                continue  # the next beat may reach the store; if none does, the lease expires

    def _latest(self) -> tuple[int, dict[str, Any] | None]:
        pattern = re.compile(rf"{re.escape(self._name)}\.([0-9]+)\.json")
        generations = [int(match[1]) for name in self._files.names(self._folder) if (match := pattern.fullmatch(name))]
        if not generations:
            return 0, None
        latest = max(generations)
        path = self._path(latest)
        try:
            holder = json.loads(self._files.read(path))
        except FileNotFoundError:  # replaced by a younger one since it was listed
            return self._latest()
        except ValueError:
            holder = None
        if not isinstance(holder, dict) or not holder.keys() >= _NEEDED:
            raise ServiceError(f"the lease {path} is damaged; if no run is at work on this root, delete it")
        return latest, holder

    def _path(self, generation: int) -> str:
        return uris.join(self._folder, f"{self._name}.{generation}.json")

    def _state(self, state: str) -> bytes:
        return json.dumps({**self._holder, "state": state, "beat": time.time()}).encode()


def _alive(holder: dict[str, Any]) -> bool:
    if holder["state"] != "held":
        return False
    if holder["host"] == socket.gethostname():
        return bool(holder["born"] == _born(holder["pid"]))
    return bool(time.time() - holder["beat"] < EXPIRY_S)


def _born(pid: int) -> str | None:
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
