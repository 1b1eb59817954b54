"""Leases: locks with a heartbeat, by name in a root, so that one run at a time does a piece of work.

A lease is the file `<name>.<generation>.json` of ROOT/leases with the highest generation. A run takes it by the
exclusive creation of the next generation: of two runs one succeeds, and a run that has lost its lease can see that.
Releasing the lease of another run works the same way. Commands that change what is in service take leases too.
"""

import datetime
import os
import socket
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress

from likeness.core.errors import ServiceError
from likeness.storage.leases.holders import LeaseState, held_leases, release
from likeness.storage.leases.lease_files import EXPIRY_S, LeaseFiles, LeaseHeldError, LeaseRecord, process_birth

HEARTBEAT_S = 10.0
EXCLUSIVE = "upkeep"
"""The lease of a run that excludes all other runs of the root."""


def run_name(job: str) -> str:
    """The id of a new run; ids sort by the time of their start."""
    return f"{datetime.datetime.now(datetime.UTC):%Y%m%dT%H%M%S}-{job}-{os.urandom(3).hex()}"


class Lease:
    """A lease that is held for the duration of a `with` block.

    It may be taken from a dead holder: at once on this machine, after EXPIRY_S on another. `replaced` is the record of
    a holder that died.
    """

    def __init__(self, root: str, name: str, holder: Mapping[str, str]) -> None:
        """Args: root, name of the lease, and the holder's `run_id`, `job` and `started`."""
        self.replaced: LeaseRecord | None = None
        self._files = LeaseFiles(root)
        self._name = name
        host, pid, token = socket.gethostname(), os.getpid(), uuid.uuid4().hex
        self._record = LeaseRecord(
            **holder, host=host, pid=pid, born=process_birth(pid), token=token, state="held", beat=time.time()
        )
        self._generation, self._end_state = 0, "released"
        self._stop = threading.Event()
        self._heartbeat = threading.Thread(target=self._beat, name=f"lease-{name}", daemon=True)

    def __enter__(self) -> "Lease":
        try:
            self._take()
        except OSError as error:
            raise ServiceError(
                f"the lease {self._name} in {self._files.folder} cannot be taken: {error}; "
                "name a root that can be written"
            ) from None
        self._heartbeat.start()
        return self

    def _take(self) -> None:
        latest, holder = self._files.latest(self._name)
        if holder and holder.is_alive():
            raise LeaseHeldError(
                f"{self._name} of this root is held by run {holder.run_id} "
                f"(process {holder.pid} on {holder.host}); wait for it to end, or stop it; "
                "`likeness unlock` says whether it is alive"
            )
        self.replaced = holder if holder and holder.state in ("held", "abandoned") else None
        self._generation = latest + 1
        self._files.create_next(self._name, latest, self._with_state("held"))
        self.check()

    def check(self) -> None:
        """Must be called before each commit.

        Raises:
            ServiceError: another run has taken over the lease, or it was released by `likeness unlock`.
        """
        latest, holder = self._files.latest(self._name)
        if latest != self._generation or not holder or holder.token != self._record.token:
            raise ServiceError(
                f"the lease {self._name} was taken over by another run, or released by `likeness unlock`; "
                "this run stops before its next commit"
            )

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        self._heartbeat.join()
        with suppress(OSError, ServiceError):  # a lease that cannot be released is free once this process has ended
            self._write(self._end_state)

    def abandon(self) -> None:
        """Has the lease end as that of a dead holder: the next run that takes it finds this one in `replaced`."""
        self._end_state = "abandoned"

    def _beat(self) -> None:
        while not self._stop.wait(HEARTBEAT_S):
            try:
                self._write("held")
            except (OSError, ServiceError):
                continue  # the next heartbeat may reach the file; if none does, the lease expires

    def _write(self, state: str) -> None:
        """Writes state and heartbeat, unless another run has taken over."""
        if self._files.latest(self._name)[0] == self._generation:
            self._files.write(self._name, self._generation, self._with_state(state))

    def _with_state(self, state: str) -> LeaseRecord:
        return self._record.model_copy(update={"state": state, "beat": time.time()})


@contextmanager
def change_lease(root: str, name: str, job: str) -> Iterator[None]:
    """Holds a lease for a change that takes a moment, made by a command and not by a run.

    Raises:
        LeaseHeldError: another run or command holds it.
        ServiceError: an exclusive run is at work.
    """
    run_id, started = run_name(job), datetime.datetime.now(datetime.UTC).isoformat()
    with Lease(root, name, {"run_id": run_id, "job": job, "started": started}):
        refuse_concurrent(root, run_id, job)
        yield


def refuse_concurrent(root: str, run_id: str, job: str, exclusive: bool = False) -> None:
    """Stops if this run or another one is exclusive. Two runs that see each other's leases both stop.

    Args:
        root: the root.
        run_id: this run, which holds its leases already.
        job: its job.
        exclusive: whether it excludes all others.

    Raises:
        ServiceError: another run is at work, and this run or that one is exclusive.
    """
    for other in held_leases(root):
        if other.state == "alive" and other.run_id != run_id and (exclusive or other.name == EXCLUSIVE):
            raise ServiceError(
                f"{job} and {other.holder} cannot work on root {root} at once: "
                f"{job if exclusive else other.job} needs exclusive access. Wait for the other run, or stop it"
            )


__all__ = [
    "EXCLUSIVE",
    "EXPIRY_S",
    "Lease",
    "LeaseHeldError",
    "LeaseRecord",
    "LeaseState",
    "change_lease",
    "held_leases",
    "refuse_concurrent",
    "release",
    "run_name",
]
