"""Lists the leases of a root that are not released, and releases those of other runs."""

import time
from dataclasses import dataclass
from typing import Literal

from likeness.core.errors import ServiceError, UsageError
from likeness.storage.leases.lease_files import DamagedLeaseError, LeaseFiles, LeaseRecord


@dataclass(frozen=True)
class LeaseState:
    """A lease that is not released: its holder, and the seconds since the holder's last heartbeat.

    `dead` means that the holder's process has ended or, on another machine, gave no heartbeat for EXPIRY_S. The holder
    of a `damaged` lease is unknown.
    """

    name: str
    state: Literal["alive", "dead", "damaged"]
    run_id: str = ""
    job: str = ""
    started: str = ""
    host: str = ""
    pid: int = 0
    beat_age_s: float | None = None

    @property
    def holder(self) -> str:
        """The holder in words."""
        if self.state == "damaged":
            return "a lease that is damaged"
        return f"run {self.run_id} (process {self.pid} on {self.host}, last heartbeat {self.beat_age_s:.0f} s ago)"


def held_leases(root: str) -> list[LeaseState]:
    """Every lease of a root that is not released, sorted by name."""
    files = LeaseFiles(root)
    return [state for name in files.generations() if (state := _state(files, name)[1])]


def release(root: str, name: str, force: bool = False) -> LeaseState:
    """Releases a lease whose holder is dead. With `force` any: a live holder stops before its next commit.

    Returns:
        The lease as it was before.

    Raises:
        UsageError: no run holds a lease of this name.
        ServiceError: without `force`, the holder is alive or unknown; or another run has taken the lease just now.
    """
    files = LeaseFiles(root)
    generation, lease = _state(files, name)
    if lease is None:
        names = ", ".join(other.name for other in held_leases(root))
        raise UsageError(f"no run holds a lease {name!r} of root {root}; the leases held are: {names or 'none'}")
    if lease.state != "dead" and not force:
        problem = "is damaged" if lease.state == "damaged" else f"is held by {lease.holder}, which is alive"
        raise ServiceError(
            f"the lease {name} {problem}; wait for the run to end, or stop it. `--force` releases it all the same, "
            "and the run stops before its next commit"
        )
    record = files.latest(name)[1] if lease.state != "damaged" else None
    record = record or LeaseRecord(run_id="", host="", pid=0, born=None, token="", state="", beat=0)
    # the run that takes over from a dead one writes its row of `runs`; a live run writes its own
    after = {"state": "abandoned" if lease.state == "dead" else "released", "beat": time.time()}
    files.create_next(name, generation, record.model_copy(update=after))
    return lease


def _state(files: LeaseFiles, name: str) -> tuple[int, LeaseState | None]:
    """The latest generation of a lease and its state; None if it is released."""
    try:
        generation, record = files.latest(name)
    except DamagedLeaseError:
        return files.generations()[name], LeaseState(name, "damaged")
    if not record or record.state != "held":
        return generation, None
    age = round(max(0.0, time.time() - record.beat), 1)
    state: Literal["alive", "dead"] = "alive" if record.is_alive() else "dead"
    return generation, LeaseState(
        name, state, record.run_id, record.job, record.started, record.host, record.pid, beat_age_s=age
    )
