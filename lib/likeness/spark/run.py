"""One run: its leases, counts, times and its row in the ledger. Settings in, a context for the stages out."""

import datetime
import json
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from types import TracebackType
from typing import Any

from likeness.backbones import Space, resolve
from likeness.errors import DataError, GateError, LikenessError
from likeness.leases import Lease, run_name
from likeness.progress import Reporter
from likeness.settings import Settings
from likeness.spark.session import Lake, open_session
from likeness.tables import FAILURES, FEATURES, IMAGES, LISTINGS, RUNS, SOURCES, Table
from likeness.warehouse import Warehouse


class Run:
    """A job on one root. Entering takes the leases of its stages, leaving writes the run's row.

    `facts[stage]` collects counts and seconds; the report and `likeness runs show` print them.
    """

    def __init__(self, job: str, settings: Settings, stages: Sequence[str], reporter: Reporter | None = None) -> None:
        self.job, self.settings, self.reporter = job, settings, reporter or Reporter()
        self.started = datetime.datetime.now(datetime.UTC)
        self.run_id = os.environ.get("LIKENESS_RUN_ID") or run_name(job)  # on YARN the submitter wants to know it
        self.space: Space = resolve(settings.extract.space, settings.extract.weights, settings.extract.cache)
        self.facts: dict[str, dict[str, Any]] = {}
        self.build: str | None = None
        self._last: dict[str, Any] | None = None
        self._stages, self._leases, self._stack = stages, [], ExitStack()  # type: ignore[var-annotated]

    def __enter__(self) -> "Run":
        self.reporter.say(f"{self.job}: {self.space.id}, root {self.settings.root}")
        identity = {"run_id": self.run_id, "job": self.job, "started": self.started.isoformat()}
        with ExitStack() as stack:
            for stage in self._stages:
                name = "ingest" if stage == "ingest" else f"{stage}-{self.space.id}"
                self._leases.append(stack.enter_context(Lease(self.settings.root, name, identity)))
            with self.stage("start"):
                self.lake = Lake(open_session(self.settings, self.job), self.settings)
                self._record_killed()
                self.facts["start"]["snapshots"] = self._snapshots()
            self._stack = stack.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if not isinstance(error, KeyboardInterrupt):
                self._record(error)
        finally:
            self._stack.close()

    @contextmanager
    def stage(self, name: str) -> Iterator[dict[str, Any]]:
        """Times a stage; the dict given is its facts."""
        begun = time.monotonic()
        facts = self.facts.setdefault(name, {})
        try:
            yield facts
        finally:
            facts["seconds"] = round(time.monotonic() - begun, 3)

    def say(self, text: str) -> None:
        """One line of progress."""
        self.reporter.say(text)

    def guard(self) -> None:
        """Called before each commit: stops if another run has taken a lease over."""
        for lease in self._leases:
            lease.check()

    def last_facts(self, stage: str, *tables: Table) -> dict[str, Any]:
        """What the last run left of a stage, if none of the tables changed since it ended; else nothing."""
        if self._last is None:
            rows = Warehouse(self.settings).read(RUNS, ("started", "facts")).sort_by("started")
            self._last = json.loads(rows["facts"][-1].as_py()) if rows.num_rows else {}
        then, now = self._last.get("end", {}).get("snapshots", {}), self._snapshots()
        same = all(then.get(table.name) == now[table.name] for table in tables)
        facts: dict[str, Any] = self._last.get(stage, {}) if same else {}
        return facts

    def must_add_up(self, stage: str, left: str, *right: str) -> None:
        """Enforces a count identity of a stage: `left` is the sum of `right`.

        Raises:
            DataError: it is not.
        """
        facts = self.facts[stage]
        if facts[left] != sum(facts[name] for name in right):
            told = " + ".join(f"{name} {facts[name]}" for name in right)
            raise DataError(
                f"{stage}: {left} {facts[left]} is not {told}; nothing is published, run the job again "
                "and report this if it stays"
            )

    def gate_failures(self, stage: str, failed: int, total: int) -> None:
        """Refuses to go on when too much of all photos listed (or held, for extraction) stands failed.

        What failed on an earlier night counts too: a bad catalogue is not waved through on the second try.

        Raises:
            GateError: over `gates.max_failure_rate`.
        """
        limit = self.settings.gates.max_failure_rate
        if total and failed / total > limit:
            raise GateError(
                f"{stage}: {failed} of {total} failed ({failed / total:.1%}), gates.max_failure_rate is {limit:.1%}; "
                f"nothing is published. `likeness failures list` says why; mend the source, or raise the gate"
            )

    def row(self, **more: Any) -> dict[str, Any]:
        """This run's row of the `runs` table."""
        return {
            "run_id": self.run_id,
            "job": self.job,
            "started": self.started,
            "ended": datetime.datetime.now(datetime.UTC),
            "space": self.space.id,
            "build": self.build,
            "settings": self.settings.model_dump_json(),
            "facts": json.dumps(self.facts),
            **more,
        }

    def _record(self, error: BaseException | None) -> None:
        code = 0 if error is None else error.exit_code if isinstance(error, LikenessError) else 1
        self.facts["end"] = {"snapshots": self._snapshots(), "exit_code": code}
        status = "done" if error is None else "refused" if isinstance(error, GateError) else "failed"
        told = None if error is None else str(error) if isinstance(error, LikenessError) else repr(error)
        self.lake.append(RUNS, self.lake.rows(RUNS, [self.row(status=status, error=told)]))

    def _record_killed(self) -> None:
        """A run that died without a row gets one from the lease it left behind."""
        killed = {lease.replaced["run_id"]: lease.replaced for lease in self._leases if lease.replaced}
        rows = [
            self.row(
                run_id=run_id,
                job=holder["job"],
                started=datetime.datetime.fromisoformat(holder["started"]),
                ended=None,
                build=None,
                status="killed",
                error="the process ended without a word",
                settings="{}",
                facts="{}",
            )
            for run_id, holder in killed.items()
        ]
        if rows:
            self.say(f"completing what run {', '.join(killed)} left when it was killed")
            self.lake.append(RUNS, self.lake.rows(RUNS, rows))

    def _snapshots(self) -> dict[str, int | None]:
        return {t.name: self.lake.snapshot(t) for t in (SOURCES, IMAGES, LISTINGS, FEATURES, FAILURES)}
