"""Facts of a run: counts, seconds and snapshots by stage, written as JSON to the `facts` column of the `runs` table.

A stage sets the fields that it has reached. Fields that were never set are left out of the JSON, so that a run that
stopped halfway reports no counts that it did not take. Rows of version 1, which name no version, are read too: the
second name of a field is its name there.
"""

import json
from collections.abc import Iterator
from typing import ClassVar, TypeVar

from pydantic import AliasChoices, BaseModel, Field, JsonValue, model_validator
from pydantic.alias_generators import to_snake


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
    existing: int = Field(0, validation_alias=AliasChoices("existing", "known"))
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

    pending: int = Field(0, validation_alias=AliasChoices("pending", "wanted"))
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

    expected: int = Field(0, validation_alias=AliasChoices("expected", "wanted"))
    vectors: int = 0
    step: str = ""
    built: int = 0
    indexed: int = 0
    added: int = 0
    removed: int = 0
    unsearchable: int = 0


class PublishFacts(StageFacts):
    """The recall of the worst shard.

    `unpublished` is the build (`space/build`) that passed its gates but was not published, because the build `pinned`
    was put in service by a rollback.
    """

    recall: float = 0.0
    unpublished: str = ""
    pinned: str = ""


class SuspectLabel(BaseModel):
    """A listing whose category a model finds unlikely, and the category that it predicts with `probability`."""

    image_id: str
    product_id: str
    uri: str
    category: str
    predicted: str = Field(validation_alias=AliasChoices("predicted", "said"))
    probability: float


class SuspectLabelsFacts(StageFacts):
    """The number of suspect labels by a version of the category model, and the `worst` of them."""

    model: str = ""
    suspects: int = Field(0, validation_alias=AliasChoices("suspects", "doubted"))
    worst: list[SuspectLabel] = []


class SweepFacts(StageFacts):
    """Builds deleted after products were erased."""

    builds: int = 0


class CompactFacts(StageFacts):
    """The number of data files before and after, by table."""

    tables: dict[str, tuple[int, int]] = {}

    @model_validator(mode="before")
    @classmethod
    def _read_version_1(cls, values: dict[str, JsonValue]) -> dict[str, JsonValue]:
        """Version 1 has a key a table."""
        tables: dict[str, JsonValue] = {name: value for name, value in values.items() if isinstance(value, list)}
        return values | {"tables": tables} if tables else values


class GcFacts(CompactFacts):
    """Builds and their files deleted; the number of snapshots before and after, by table."""

    builds: int = 0
    build_files: int = 0


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


class EndFacts(StartFacts):
    """The snapshot of each table when the run ended, and its exit code."""

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
    suspect_labels: SuspectLabelsFacts | None = Field(None, validation_alias=AliasChoices("suspect_labels", "doubts"))
    sweep: SweepFacts | None = None
    compact: CompactFacts | None = None
    gc: GcFacts | None = None
    copy_root: CopyRootFacts | None = Field(None, validation_alias=AliasChoices("copy_root", "copy"))
    train: TrainFacts | None = None
    evaluate: EvaluateFacts | None = None
    promote: PromoteFacts | None = None
    report: ReportFacts | None = None
    end: EndFacts | None = None

    version: int = 2

    def of(self, kind: type[S]) -> S | None:
        """The facts of one stage, by their type."""
        facts: S | None = getattr(self, kind.stage())
        return facts

    def ran(self) -> Iterator[StageFacts]:
        """The facts of the stages that ran, in the order of running."""
        yield from (facts for name in RunFacts.model_fields if isinstance(facts := getattr(self, name), StageFacts))

    def dump(self) -> dict[str, JsonValue]:
        """The version and the fields that were set."""
        return {"version": self.version} | self.model_dump(mode="json", exclude_unset=True)

    def to_json(self) -> str:
        """The `facts` column of a row of `runs`, which `model_validate_json` reads."""
        return json.dumps(self.dump())
