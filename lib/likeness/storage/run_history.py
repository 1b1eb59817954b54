"""Rows of the tables `runs` and `failures` as types, and how fast each stage was in earlier runs."""

import datetime

from pydantic import BaseModel, Json

from likeness.storage.run_facts import RunFacts
from likeness.storage.table_reader import TableReader
from likeness.storage.tables import FAILURES, RUNS, Value

_ENOUGH = 1000
"""The seconds of a stage with less work than this show its start-up, not its rate."""


class RunRow(BaseModel):
    """A row of the table `runs`; `settings` is the JSON of `Settings`."""

    run_id: str
    job: str
    status: str
    started: datetime.datetime
    ended: datetime.datetime | None
    space: str | None
    build: str | None
    error: str | None
    settings: str
    facts: RunFacts | Json[RunFacts]

    def columns(self) -> dict[str, Value]:
        """The row as the table takes it."""
        return dict(self) | {"facts": self.facts.to_json()}


class FailureRow(BaseModel):
    """A row of the table `failures`."""

    what: str
    stage: str
    space: str
    reason: str
    detail: str
    attempts: int
    last: datetime.datetime
    run_id: str


def read_runs(tables: TableReader, where: str = "") -> list[RunRow]:
    """Runs by their start, the latest last."""
    return [RunRow(**row) for row in tables.read(RUNS, where=where).sort_by("started").to_pylist()]


def read_failures(tables: TableReader, where: str = "") -> list[FailureRow]:
    """Standing failures by stage and by what failed."""
    rows = tables.read(FAILURES, where=where).sort_by([("stage", "ascending"), ("what", "ascending")])
    return [FailureRow(**row) for row in rows.to_pylist()]


def rates(tables: TableReader, space: str) -> dict[str, tuple[float, str]]:
    """How fast each stage worked, by stage: its count a second (photos or vectors), and the run that shows it.

    It is the latest run of the space whose stage counted at least 1000; without one, that which counted most. Ingest is
    the same for all spaces.
    """
    best: dict[str, tuple[int, float, str]] = {}
    for row in read_runs(tables):
        for facts in row.facts.ran():
            stage, count = facts.stage(), facts.amount
            if not count or not facts.seconds or (row.space != space and stage != "ingest"):
                continue
            if stage not in best or count >= min(_ENOUGH, best[stage][0]):
                best[stage] = count, count / facts.seconds, row.run_id
    return {stage: (rate, run_id) for stage, (_, rate, run_id) in best.items()}
