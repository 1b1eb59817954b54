"""Who holds the leases of a root: its files in, holders out; and the release of what another holds."""

import json
import time
from dataclasses import dataclass
from typing import Literal

from likeness.core.errors import ServiceError, UsageError
from likeness.storage.leases.lease_files import NEEDED, DamagedLease, LeaseFiles, alive


@dataclass(frozen=True)
class LeaseState:
    """A lease that was not given back: who took it, and how long ago that one last said that it lives.

    `dead` is a process that is gone or, on another machine, has been silent for EXPIRY_S; `damaged` names nobody.
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
        """Who it is, in words."""
        if self.state == "damaged":
            return "a lease that is damaged"
        return f"run {self.run_id} (process {self.pid} on {self.host}, last beat {self.beat_age_s:.0f} s ago)"


def held(root: str) -> list[LeaseState]:
    """Every lease of a root that was not given back, by name."""
    shelf = LeaseFiles(root)
    return [found for name in shelf.all() if (found := _look(shelf, name)[1])]


def release(root: str, name: str, force: bool = False) -> LeaseState:
    """Ends a lease whose holder is dead, or any with `force`: a holder that lives stops before its next commit.

    Returns:
        The lease as it was.

    Raises:
        UsageError: nobody holds such a lease.
        ServiceError: its holder lives or cannot be told, and `force` was not given; or another run took it just now.
    """
    shelf = LeaseFiles(root)
    generation, found = _look(shelf, name)
    if found is None:
        there = ", ".join(one.name for one in held(root))
        raise UsageError(f"no run holds a lease {name!r} of root {root}; held are: {there or 'none'}")
    if found.state != "dead" and not force:
        why = "is damaged" if found.state == "damaged" else f"is held by {found.holder}, which is alive"
        raise ServiceError(
            f"the lease {name} {why}; wait for the run to end, or stop it. With --force it is released all the same, "
            "and the run stops before its next commit"
        )
    before = (shelf.latest(name)[1] or {}) if found.state != "damaged" else {}
    # whoever takes over from a dead run writes its row; a run that lives writes its own
    after = {"state": "abandoned" if found.state == "dead" else "released", "beat": time.time()}
    shelf.follow(name, generation, json.dumps({**dict.fromkeys(NEEDED, ""), **before, **after}).encode())
    return found


def _look(shelf: LeaseFiles, name: str) -> tuple[int, LeaseState | None]:
    """The latest generation of a lease, and who holds it; None if it was given back."""
    try:
        generation, holder = shelf.latest(name)
    except DamagedLease:
        return shelf.all()[name], LeaseState(name, "damaged")
    if not holder or holder["state"] != "held":
        return generation, None
    told = {key: str(holder.get(key, "")) for key in ("run_id", "job", "started", "host")}
    age = round(max(0.0, time.time() - holder["beat"]), 1)
    return generation, LeaseState(name, "alive" if alive(holder) else "dead", **told, pid=holder["pid"], beat_age_s=age)
