"""One run of a job: its leases, its facts and its row in the `runs` table.   [pyspark]"""

import datetime
import functools
import os
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from likeness.core.errors import DataError, GateError, LikenessError
from likeness.core.progress import Reporter
from likeness.core.settings import Settings
from likeness.models.backbones import Space
from likeness.models.spaces import spaces_of
from likeness.spark.session import open_session
from likeness.spark.tables import SparkTables
from likeness.storage.leases import EXCLUSIVE, Lease, LeaseHeldError, refuse_concurrent, run_name
from likeness.storage.run_facts import EndFacts, RunFacts, S, StageFacts, StartFacts
from likeness.storage.run_history import RunRow, read_runs
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, FEATURES, IMAGES, LISTINGS, RUNS, SOURCES, Table

_LOCK_TIMEOUT_S = 1800.0


class Run:
    """A job on one root. Entering takes the leases of its stages; leaving writes the run's row.

    Runs of other stages or spaces may work at the same time, unless the run is `exclusive`. `facts` collects the counts
    and seconds of each stage; the report and `likeness runs show` print them. The extract stage works on all `spaces`,
    the other stages on `space`, the first of them.
    """

    def __init__(
        self,
        job: str,
        settings: Settings,
        stages: Sequence[str],
        reporter: Reporter | None = None,
        exclusive: bool = False,
        space: Space | None = None,
    ) -> None:
        self.job, self.settings, self.reporter = job, settings, reporter or Reporter()
        self.started = datetime.datetime.now(datetime.UTC)
        self.run_id = os.environ.get("LIKENESS_RUN_ID") or run_name(job)  # on YARN the submitter has chosen it
        self.spaces = (space,) if space else spaces_of(settings)
        self.space = self.spaces[0]
        self.facts = RunFacts()
        self.build: str | None = None
        pairs = [(stage, space) for stage in stages for space in (self.spaces if stage == "extract" else [self.space])]
        # all spaces share one source, so the lease of ingest has no space
        self._names = [stage if stage == "ingest" else f"{stage}-{space.id}" for stage, space in pairs]
        self._names += [EXCLUSIVE] * exclusive
        self._leases, self._stack = [], ExitStack()  # type: ignore[var-annotated]

    def __enter__(self) -> "Run":
        self.reporter.say(f"{self.job}: space {self.space.id}, root {self.settings.root}")
        with ExitStack() as stack:
            self._leases = [stack.enter_context(self._lease(name)) for name in self._names]
            refuse_concurrent(self.settings.root, self.run_id, self.job, EXCLUSIVE in self._names)
            with self.stage(StartFacts) as facts:
                self.tables = SparkTables(open_session(self.settings, self.job), self.settings, self.check_leases)
                self._record_killed()
                facts.snapshots = self._snapshots()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        try:
            if not isinstance(error, KeyboardInterrupt):
                self._record(error)
        except BaseException:  # as of a JVM that was killed: the next run writes the row
            for lease in self._leases:
                lease.abandon()
            raise
        finally:
            self._stack.close()

    def _lease(self, name: str) -> Lease:
        identity = {"run_id": self.run_id, "job": self.job, "started": self.started.isoformat()}
        return Lease(self.settings.root, name, identity)

    @contextmanager
    def lock(self, name: str) -> Iterator[None]:
        """Serialises a short piece of work among the runs of all spaces.

        Raises:
            ServiceError: another run has held the lock for half an hour.
        """
        until = time.monotonic() + _LOCK_TIMEOUT_S
        with ExitStack() as stack:
            while True:
                try:
                    stack.enter_context(self._lease(name))
                    break
                except LeaseHeldError:
                    if time.monotonic() > until:
                        raise
                    time.sleep(1)
            yield

    @contextmanager
    def stage(self, kind: type[S]) -> Iterator[S]:
        """Times a stage, and yields its facts for it to fill in."""
        begun, facts = time.monotonic(), kind()
        setattr(self.facts, kind.stage(), facts)
        try:
            yield facts
        finally:
            facts.seconds = round(time.monotonic() - begun, 3)

    def say(self, text: str) -> None:
        """Prints one line of progress."""
        self.reporter.say(text)

    def check_leases(self) -> None:
        """Must be called before each change; the tables call it before each commit.

        Raises:
            ServiceError: another run has taken over a lease of this run.
        """
        for lease in self._leases:
            lease.check()

    def last_facts(self, kind: type[S], *tables: Table) -> S | None:
        """The facts of the last run that did a stage; None if one of the tables has changed since that run ended.

        The source is shared by all spaces; runs of other stages count only if they are of this run's space.
        """
        for past in reversed(self._past):
            facts = past.facts.of(kind)
            if facts and (kind.stage() == "ingest" or past.space == self.space.id):
                then, now = past.facts.end.snapshots if past.facts.end else {}, self._snapshots()
                return facts if all(then.get(table.name) == now[table.name] for table in tables) else None
        return None

    @functools.cached_property
    def _past(self) -> list[RunRow]:
        """The earlier runs, the latest last."""
        return read_runs(TableReader(self.settings))

    @staticmethod
    def must_add_up(facts: StageFacts) -> None:
        """Enforces the count identity of a stage.

        Raises:
            DataError: the counts do not add up.
        """
        total, *parts = facts.identity
        counts = dict(facts)
        if counts[total] != sum(counts[name] for name in parts):
            raise DataError(
                f"{facts.stage()}: {total} {counts[total]} is not {' + '.join(f'{n} {counts[n]}' for n in parts)}; "
                "nothing is published. Run the job again; if the error stays, report it as a bug"
            )

    def gate_failures(self, stage: str, failed: int, total: int) -> None:
        """Stops the run if too large a share of `total` photos has failed.

        Failures of earlier runs count too, so that a bad catalogue does not pass on the second try.

        Raises:
            GateError: over `gates.max_failure_rate`.
        """
        limit = self.settings.gates.max_failure_rate
        if total and failed / total > limit:
            raise GateError(
                f"{stage}: {failed} of {total} photos failed ({failed / total:.1%}), gates.max_failure_rate is "
                f"{limit:.1%}; nothing is published. `likeness failures list` says why; "
                "repair the source, or raise the gate"
            )

    def row(self, status: str, error: str | None = None) -> RunRow:
        """This run's row of the `runs` table."""
        return RunRow(
            run_id=self.run_id,
            job=self.job,
            status=status,
            started=self.started,
            ended=datetime.datetime.now(datetime.UTC),
            space=self.space.id,
            build=self.build,
            error=error,
            settings=self.settings.model_dump_json(),
            facts=self.facts,
        )

    def _record(self, error: BaseException | None) -> None:
        code = 0 if error is None else error.exit_code if isinstance(error, LikenessError) else 1
        self.facts.end = EndFacts(snapshots=self._snapshots(), exit_code=code)
        status = "done" if error is None else "refused" if isinstance(error, GateError) else "failed"
        message = None if error is None else str(error) if isinstance(error, LikenessError) else repr(error)
        self._append(self.row(status, message))

    def _append(self, row: RunRow) -> None:
        self.tables.append(RUNS, self.tables.rows(RUNS, [row.columns()]))

    def _record_killed(self) -> None:
        """Writes the rows of killed runs, from the leases that they left behind."""
        killed = {lease.replaced.run_id: lease.replaced for lease in self._leases if lease.replaced}
        if killed:  # another run may have taken over some of its leases, and written its row
            recorded = set(TableReader(self.settings).read(RUNS, ("run_id",))["run_id"].to_pylist())
            killed = {run_id: holder for run_id, holder in killed.items() if run_id not in recorded}
        if killed:
            self.say(f"this run completes the work of {', '.join(killed)}, which was killed")
            row = self.row("killed", "the process was killed, or its machine stopped")
            row = row.model_copy(update={"ended": None, "settings": "{}", "facts": RunFacts()})
            for run_id, holder in killed.items():
                started = datetime.datetime.fromisoformat(holder.started)
                self._append(row.model_copy(update={"run_id": run_id, "job": holder.job, "started": started}))

    def _snapshots(self) -> dict[str, int | None]:
        return {t.name: self.tables.snapshot(t) for t in (SOURCES, IMAGES, LISTINGS, FEATURES, FAILURES)}
