"""Facts of a run: counts, seconds and snapshots by stage, written as JSON to the `facts` column of the `runs` table.

A stage sets the fields that it has reached. Fields that were never set are left out of the JSON, so that a run that
stopped halfway reports no counts that it did not take.
"""

import json
from collections.abc import Iterator
from typing import Any, ClassVar, TypeVar

from pydantic import BaseModel
from pydantic.alias_generators import to_snake

VERSION = 2
_RENAMED_STAGES = {"doubts": "suspect_labels", "copy": "copy_root"}
_RENAMED_KEYS = {
    "ingest": {"known": "existing"},
    "extract": {"wanted": "pending"},
    "index": {"wanted": "expected"},
    "suspect_labels": {"doubted": "suspects"},
}
"""Keys of version 1, which rows without a version have, and those of version 2."""


class StageFacts(BaseModel):
    """What one stage of a run did. `identity` and `work` name fields of the subclass."""

    identity: ClassVar[tuple[str, ...]] = ()
    """A count, then the counts whose sum it must be."""
    work: ClassVar[str] = ""
    """The count that the seconds of the stage depend on."""

    seconds: float = 0.0

    @classmethod
    def stage(cls) -> str:
        """The stage, which is also the field of `RunFacts`: `suspect_labels` of `SuspectLabelsFacts`."""
        return to_snake(cls.__name__.removesuffix("Facts"))

    @property
    def amount(self) -> int:
        """The count that the seconds depend on; 0 for a stage without one."""
        return getattr(self, self.work, 0)

    def counts(self, *names: str) -> dict[str, int] | None:
        """Some fields by name, or None if the stage has not set all of them."""
        return {name: getattr(self, name) for name in names} if self.model_fields_set.issuperset(names) else None


class StartFacts(StageFacts):
    """The snapshot of each table when the run began."""

    snapshots: dict[str, int | None] = {}


class IngestFacts(StageFacts):
    """Photos of the source: `listed` = `new` + `existing` + `rejected`.

    `existing` photos are in the tables already, `reused` of them read again from a new place. `read` is the number of
    places that were read, `bytes` their size. `rejected` includes rejections of earlier runs, `rejected_now` does not.
    """

    identity = ("listed", "new", "existing", "rejected")
    work = "read"

    listed: int = 0
    new: int = 0
    existing: int = 0
    reused: int = 0
    read: int = 0
    rejected: int = 0
    rejected_now: int = 0
    bytes: int = 0
    ignored: int = 0
    unlisted: int = 0
    changed: int = 0
    withdrawn: int = 0
    fingerprint: str = ""


class ExtractFacts(StageFacts):
    """Photos without a vector: `pending` = `extracted` + `failed`.

    `standing_failures` includes failures of earlier runs. `complete` names the photos and spaces of which none is left
    to extract. `gpu_busy` is the share of the seconds in which the GPUs computed.
    """

    identity = ("pending", "extracted", "failed")
    work = "pending"

    pending: int = 0
    extracted: int = 0
    failed: int = 0
    standing_failures: int = 0
    worker_seconds: dict[str, float] = {}
    workers: int = 0
    networks: int = 0
    gpu_busy: float = 0.0
    scope: str = ""
    complete: str = ""


class LabelFacts(StageFacts):
    """Photos tagged in this run, and the most frequent first labels of all photos."""

    labelled: int = 0
    labels: dict[str, int] = {}


class LoadFacts(StageFacts):
    """Rows put into the keyed store, and rows deleted there."""

    work = "vectors"

    vectors: int = 0
    products: int = 0
    deleted: int = 0


class ForgetFacts(StageFacts):
    """Products erased, and the photos that only they listed."""

    products: int = 0
    photos: int = 0


class IndexFacts(StageFacts):
    """Vectors of the build; `expected` is their number in the tables.

    `step` is `whole`, `delta`, `merge` or `unchanged`. `built` shards hold `indexed` vectors; `added` and `removed` are
    the change to the previous build. `unsearchable` images of active listings have no vector.
    """

    identity = ("expected", "vectors")
    work = "indexed"

    expected: int = 0
    vectors: int = 0
    step: str = ""
    built: int = 0
    indexed: int = 0
    added: int = 0
    removed: int = 0
    unsearchable: int = 0


class PublishFacts(StageFacts):
    """The recall of the worst shard."""

    recall: float = 0.0


class SuspectLabel(BaseModel):
    """A listing whose category a model finds unlikely, and the category that it predicts with `probability`."""

    image_id: str
    product_id: str
    uri: str
    category: str
    predicted: str
    probability: float


class SuspectLabelsFacts(StageFacts):
    """The number of suspect labels by a version of the category model, and the `worst` of them."""

    model: str = ""
    suspects: int = 0
    worst: list[SuspectLabel] = []


class SweepFacts(StageFacts):
    """Builds deleted after products were erased."""

    builds: int = 0


class CompactFacts(StageFacts):
    """The number of data files before and after, by table."""

    tables: dict[str, tuple[int, int]] = {}


class GcFacts(StageFacts):
    """Builds and their files deleted; the number of snapshots before and after, by table."""

    builds: int = 0
    build_files: int = 0
    tables: dict[str, tuple[int, int]] = {}


class CopyRootFacts(StageFacts):
    """Files copied to the new root."""

    files: int = 0


class EvaluateFacts(StageFacts):
    """Metrics of a model's version on an evaluation set."""

    model: str = ""
    version: str = ""
    evaluation: str = ""
    metrics: dict[str, float] = {}


class TrainFacts(EvaluateFacts):
    """As `EvaluateFacts`, with the photos and the processes of the training."""

    photos: int = 0
    processes: int = 0


class PromoteFacts(StageFacts):
    """The version put in service, and the one that was in service before."""

    model: str = ""
    version: str = ""
    before: str | None = None


class ReportFacts(StageFacts):
    """Facts of the report stage: its seconds only."""


class EndFacts(StageFacts):
    """The snapshot of each table when the run ended, and its exit code."""

    snapshots: dict[str, int | None] = {}
    exit_code: int = 1


S = TypeVar("S", bound=StageFacts)


class RunFacts(BaseModel):
    """What a run did, by stage in the order of running; None where a stage did not run."""

    start: StartFacts | None = None
    ingest: IngestFacts | None = None
    extract: ExtractFacts | None = None
    label: LabelFacts | None = None
    load: LoadFacts | None = None
    forget: ForgetFacts | None = None
    index: IndexFacts | None = None
    publish: PublishFacts | None = None
    suspect_labels: SuspectLabelsFacts | None = None
    sweep: SweepFacts | None = None
    compact: CompactFacts | None = None
    gc: GcFacts | None = None
    copy_root: CopyRootFacts | None = None
    train: TrainFacts | None = None
    evaluate: EvaluateFacts | None = None
    promote: PromoteFacts | None = None
    report: ReportFacts | None = None
    end: EndFacts | None = None

    version: int = VERSION

    def of(self, kind: type[S]) -> S | None:
        """The facts of one stage, by their type."""
        facts: S | None = getattr(self, kind.stage())
        return facts

    def ran(self) -> Iterator[StageFacts]:
        """The facts of the stages that ran, in the order of running."""
        yield from (facts for name in RunFacts.model_fields if isinstance(facts := getattr(self, name), StageFacts))

    def dump(self) -> dict[str, Any]:
        """The version and the fields that were set, as JSON values."""
        return {"version": self.version} | self.model_dump(mode="json", exclude_unset=True)

    def to_json(self) -> str:
        """The `facts` column of a row of `runs`."""
        return json.dumps(self.dump())

    @classmethod
    def from_json(cls, text: str) -> "RunFacts":
        """Reads the `facts` column of a row of `runs`, of this version or the one before."""
        values = json.loads(text)
        return cls.model_validate(values if "version" in values else _of_version_1(values))


def _of_version_1(values: dict[str, Any]) -> dict[str, Any]:
    """The facts of a row of version 1 under the keys of version 2."""
    stages = {_RENAMED_STAGES.get(stage, stage): facts for stage, facts in values.items()}
    for stage, renamed in _RENAMED_KEYS.items():
        if stage in stages:
            stages[stage] = {renamed.get(key, key): value for key, value in stages[stage].items()}
    for stage in {"compact", "gc"} & stages.keys():  # these had a key a table
        facts = stages[stage]
        stages[stage] = facts | {"tables": {key: value for key, value in facts.items() if isinstance(value, list)}}
    for row in stages.get("suspect_labels", {}).get("worst", ()):
        row["predicted"] = row.pop("said")
    return stages
