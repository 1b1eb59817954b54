"""The jobs: settings in, one run out.   [pyspark]"""

from collections.abc import Mapping, Sequence

from likeness.catalog.sources import check_source
from likeness.core.errors import GateError, ServiceError, UsageError
from likeness.core.formatting import size
from likeness.core.progress import Reporter
from likeness.core.settings import Settings
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.models.backbones import untrained_space
from likeness.models.imagenet_classifier import logits_space
from likeness.models.model_card import Evaluation, Metric, ModelCard
from likeness.models.model_registry import ModelRegistry, space_of, spaces_of
from likeness.ops import estimate, reports
from likeness.ops.backfill_coverage import CoverageCell, Scope
from likeness.spark.run import Run
from likeness.spark.stages.compact import compact, gc
from likeness.spark.stages.copy import copy
from likeness.spark.stages.erase import forget
from likeness.spark.stages.extract import extract
from likeness.spark.stages.index import index, publish
from likeness.spark.stages.ingest import ingest
from likeness.spark.stages.label import label
from likeness.spark.stages.load import expect_store, load
from likeness.spark.stages.suspect_labels import doubts
from likeness.spark.submit.job_cli import backfill_command as backfill_command
from likeness.spark.submit.job_cli import evaluate_command as evaluate_command
from likeness.spark.submit.job_cli import job_command as job_command
from likeness.spark.submit.job_cli import promote_command as promote_command
from likeness.spark.submit.job_cli import train_command as train_command
from likeness.storage.run_facts import PromoteFacts, ReportFacts
from likeness.training.request import TrainingRequest

_ALL = ("ingest", "extract", "load", "index")


def nightly(settings: Settings, retry: bool = False) -> None:
    """Ingest, extract, load, index, audit, publish, report."""
    check_source(settings.source)
    built: Manifest | None = None
    unloaded: ServiceError | None = None
    reporter = Reporter()
    expect_store(settings, reporter)
    with Run("retry-failed" if retry else "nightly", settings, _ALL, reporter) as run:
        try:
            ingest(run, retry)
            extract(run, retry)
            unloaded = _load_or_later(run)
            built = index(run)
            if built:
                _publish(run, built)
            doubts(run)
        except GateError as refused:
            _report(run, built, "refused", str(refused))
            raise
        current = Builds(settings.root).find()
        run.build = current.path
        _report(run, current, "failed" if unloaded else "done", str(unloaded) if unloaded else None)
        if unloaded:
            raise unloaded
    print(reports.summary(run.facts, settings, current))


def _load_or_later(run: Run) -> ServiceError | None:
    """Loads; a store that is down keeps no photo from the index, and is returned as the error to end with."""
    try:
        load(run)
    except ServiceError as error:
        run.say(f"load: {error}")
        return ServiceError(f"{error} – the index is in service all the same; once the store is back, run `load` alone")
    return None


def retry_failed(settings: Settings) -> None:
    """Nightly, reading and extracting again what stands in the failure ledger."""
    nightly(settings, retry=True)


def ingest_job(settings: Settings) -> None:
    """Bring the tables up to date with a source."""
    check_source(settings.source)
    with Run("ingest", settings, ("ingest",)) as run:
        ingest(run)


def extract_job(settings: Settings) -> None:
    """Extract every photo that the space lacks."""
    with Run("extract", settings, ("extract",)) as run:
        extract(run)


def backfill(settings: Settings, scope: Scope, dry_run: bool = False) -> None:
    """Fill what is missing for a space, over ingest dates and of a category if so told."""
    spaces = {space.id: estimate.backfill(settings, space, scope) for space in spaces_of(settings)}
    if dry_run:
        for name, (step, cells) in spaces.items():
            print(_would_do(step, cells, f"{name}, {scope}"))
        print("a dry run: nothing was done")
        return
    with Run("backfill", settings, ("extract",)) as run:
        run.say(f"backfill: {scope}, {max(step.count for step, _ in spaces.values())} photos are missing")
        facts = extract(run, scope=scope)
    done = f"{facts.extracted:,} extracted, {facts.failed:,} failed of {facts.pending:,}"
    print(f"{', '.join(spaces)}, {scope}: {done}")
    if facts.standing_failures:
        print(f"{facts.standing_failures:,} stand failed; why: `likeness failures list --root {settings.root}`")


def _would_do(step: estimate.StageEstimate, cells: Sequence[CoverageCell], what: str) -> str:
    """The dry run's words on a space: a line an ingest date, then all of it."""
    lines = [f"{'ingest_date':<12}{'photos':>12}{'present':>12}{'failed':>12}{'to extract':>12}"]
    lines += [f"{c.ingest_date:<12}{c.photos:>12,}{c.present:>12,}{c.failed:>12,}{c.missing:>12,}" for c in cells]
    basis = f" at the rate of run {step.basis}" if step.basis else ""
    return "\n".join(
        [
            *lines,
            f"{what}: {step.count:,} photos to extract; time: {estimate.duration(step.seconds)}{basis}; "
            f"written, at most: {size(step.stored) if step.stored else 'nothing'}",
        ]
    )


def label_job(settings: Settings) -> None:
    """Tag every photo with what the space's network takes it for."""
    backbone = settings.extract.space.partition(".")[0]
    space, names = logits_space(settings, backbone)
    with Run("label", settings, ("extract",), space=space) as run:
        extract(run)
        facts = label(run, names)
    print(f"{run.space.id}: {facts.labelled:,} photos labelled; the first label of all of them:")
    for name, count in facts.labels.items():
        print(f"{count:>9,}  {name}")


def train_job(settings: Settings, ask: TrainingRequest) -> ModelCard:
    """Train a model on the catalogue, and measure it on photos that it never saw."""
    from likeness.spark.stages.train import train  # torch takes seconds to load, and no other job wants it here
    from likeness.training.plan import plan_training

    space = untrained_space(settings.extract.space) if ask.scratch or ask.teacher else space_of(settings)
    with Run("train", settings, ("train",), space=space) as run:
        card = train(run, plan_training(settings, ask, run.run_id))
        with run.stage(ReportFacts):
            run.say(f"report: {reports.write_trained(card, settings)}")
        run.say(f"train: model {card.name} {card.version}, of {card.photos:,} photos, on {card.evaluation}:")
    _show(card.metrics)
    print(f"put it in service: likeness models promote {card.name} --root {settings.root}")
    return card


def _show(metrics: Mapping[str, Metric]) -> None:
    for name, metric in metrics.items():
        print(f"{name:<16} {metric.value:.4f}  ({metric.low:.4f} to {metric.high:.4f})")


def evaluate_job(settings: Settings, model: str, version: str, on: str) -> Evaluation:
    """Measure a model on an evaluation set that it has never seen."""
    from likeness.spark.stages.evaluate import evaluate

    held = EvaluationSets(settings.root).find(on)
    if not held:
        raise UsageError(f"root {settings.root} has no evaluation set; make one with `likeness models freeze`")
    models = ModelRegistry(settings.root, settings.extract.cache)
    card = models.card(model, version)
    with Run("evaluate", settings, ("extract",), space=models.space(card)) as run:
        found = evaluate(run, card, held)
        run.say(f"evaluate: model {card.name} {card.version}, on {held.id}:")
    _show(found.metrics)
    return found


def promote_job(settings: Settings, model: str, version: str, reason: str) -> None:
    """Put a version of a model in service, unless it is worse than the one that is."""
    models = ModelRegistry(settings.root, settings.extract.cache)
    card = models.candidate(model, version)
    with Run("promote", settings, (), space=models.space(card)) as run, run.stage(PromoteFacts) as facts:
        before, now = models.promote(model, card.version, reason)
        facts.model, facts.version, facts.before = model, now.version, before.version if before else None
    print(f"{model}: {now.version} is in service" + (f", before: {before.version}" if before else ""))


def load_job(settings: Settings) -> None:
    """Bring the keyed store up to date with the tables."""
    with Run("load", settings, ("load",)) as run:
        load(run)


def index_job(settings: Settings) -> None:
    """Build and audit shards, without publishing them."""
    with Run("index", settings, ("index",)) as run:
        built = index(run)
        run.build = built.path if built else None
    if built:
        print(f"try it: likeness search PHOTO --root {settings.root} --build {built.build}")


def publish_job(settings: Settings) -> None:
    """Put the newest build of the space in service, if it passes its gates."""
    with Run("publish", settings, ("index",)) as run:
        builds = Builds(settings.root)
        mine = builds.of(run.space.id)
        if not mine:
            raise UsageError(f"root {settings.root} has no build of {run.space.id}; run ./spark-submit.sh index first")
        _publish(run, builds.read(mine[-1]))


def _publish(run: Run, manifest: Manifest) -> None:
    with run.turn("publish"):  # one file names the builds of all spaces
        publish(run, manifest)


def compact_job(settings: Settings) -> None:
    """Put the tables' small files together, and let go of snapshots that nothing needs."""
    with Run("compact", settings, _ALL, alone=True) as run:
        compact(run)


def gc_job(settings: Settings) -> None:
    """Delete builds, files and snapshots that nothing refers to."""
    with Run("gc", settings, _ALL, alone=True) as run:
        gc(run)


def copy_root(settings: Settings, to: str) -> None:
    """Copy a root to another place."""
    with Run("copy", settings, _ALL, alone=True) as run:
        copy(run, to)


def forget_products(settings: Settings, product_ids: Sequence[str]) -> None:
    """Erase products from tables, keyed store, builds and reports."""
    with Run("forget", settings, _ALL, alone=True) as run:
        forget(run, product_ids)


def _report(run: Run, manifest: Manifest | None, status: str, error: str | None = None) -> None:
    with run.stage(ReportFacts):
        try:
            run.say(f"report: {reports.write(run.row(status, error), run.settings, manifest)}")
        except OSError as failed:  # the work is done and published; its report is not worth a failed run
            run.say(f"report: cannot be written: {failed}; `likeness runs show {run.run_id}` says the same")
