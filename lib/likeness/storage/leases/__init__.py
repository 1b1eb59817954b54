"""Leases: a name in a root that one run at a time may hold. Files in, a held lease or a clear refusal out.

A lease is the highest numbered file `<name>.<generation>.json` of ROOT/leases. Taking it is the exclusive
creation of the next generation, so of two takers one wins, and a holder that lost it can tell. Releasing that of
another works the same way.
"""

import datetime
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Mapping
from contextlib import suppress
from types import TracebackType
from typing import Any

from likeness.core.errors import ServiceError
from likeness.storage.leases.holders import LeaseState, held, release
from likeness.storage.leases.lease_files import EXPIRY_S, HeldLease, LeaseFiles, alive, born

HEARTBEAT_S = 10.0


def run_name(job: str) -> str:
    """A new run's id: names sort by age."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{job}-{os.urandom(3).hex()}"


class Lease:
    """Held from `with` to its end; a dead holder on this machine is replaced at once, another after EXPIRY_S."""

    def __init__(self, root: str, name: str, holder: Mapping[str, str]) -> None:
        """`holder` says who takes it: run_id, job and when it started."""
        self.replaced: dict[str, Any] | None = None
        self._shelf = LeaseFiles(root)
        self._name, self._token = name, uuid.uuid4().hex
        self._holder = {
            **holder,
            "host": socket.gethostname(),
            "pid": os.getpid(),
            "born": born(os.getpid()),
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
                f"the lease {self._name} in {self._shelf.folder} cannot be taken: {error}; "
                "name a root that can be written"
            ) from None
        self._beat.start()
        return self

    def _take(self) -> None:
        before, holder = self._shelf.latest(self._name)
        if holder and alive(holder):
            raise HeldLease(
                f"{self._name} of this root is held by run {holder['run_id']} "
                f"(process {holder['pid']} on {holder['host']}); wait for it to end, or stop it; "
                "`likeness unlock` says whether it lives"
            )
        self.replaced = holder if holder and holder["state"] in ("held", "abandoned") else None
        self._generation = before + 1
        self._shelf.follow(self._name, before, self._state("held"))
        self.check()

    def check(self) -> None:
        """Called before each commit.

        Raises:
            ServiceError: another run has taken over.
        """
        latest, holder = self._shelf.latest(self._name)
        if latest != self._generation or not holder or holder["token"] != self._token:
            raise ServiceError(
                f"the lease {self._name} was taken over by another run, or released by `likeness unlock`; "
                "this one stops before a commit"
            )

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop.set()
        self._beat.join()
        with suppress(OSError, ServiceError):  # what cannot be given back ends with this process
            self._write("released")

    def _heartbeat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._write("held")
            except (OSError, ServiceError):
                continue  # the next beat may reach the store; if none does, the lease expires

    def _write(self, state: str) -> None:
        """Says how it stands, unless another has taken over."""
        if self._shelf.latest(self._name)[0] == self._generation:
            self._shelf.write(self._name, self._generation, self._state(state))

    def _state(self, state: str) -> bytes:
        return json.dumps({**self._holder, "state": state, "beat": time.time()}).encode()


__all__ = ["EXPIRY_S", "HEARTBEAT_S", "HeldLease", "Lease", "LeaseState", "held", "release", "run_name"]
