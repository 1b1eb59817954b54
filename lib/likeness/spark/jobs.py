"""The jobs: each takes the settings and does one run.   [pyspark]"""

from collections.abc import Mapping, Sequence

from likeness.catalog.sources import check_source
from likeness.core.errors import GateError, ServiceError, UsageError
from likeness.core.formatting import pluralize, size
from likeness.core.progress import Reporter
from likeness.core.settings import Settings
from likeness.evaluation.evaluation_sets import EvaluationSets
from likeness.index.builds import Builds
from likeness.index.manifest import Manifest
from likeness.models.backbones import untrained_space
from likeness.models.imagenet_classifier import logits_space
from likeness.models.model_card import Evaluation, Metric, ModelCard
from likeness.models.model_registry import ModelRegistry
from likeness.models.spaces import space_of, spaces_of
from likeness.ops import estimate, reports
from likeness.ops.backfill_coverage import CoverageCell, Scope
from likeness.spark.run import Run
from likeness.spark.stages import compact, copy, erase, extract, index, ingest, label, load, suspect_labels
from likeness.spark.submit.job_cli import job_command as job_command
from likeness.storage.run_facts import PromoteFacts, ReportFacts
from likeness.training.request import TrainingRequest

_ALL = ("ingest", "extract", "load", "index")


def nightly(settings: Settings, retry: bool = False) -> None:
    """Ingest, extract, load, index, audit, publish, report."""
    check_source(settings.source)
    built: Manifest | None = None
    load_error: ServiceError | None = None
    reporter = Reporter()
    load.warn_if_store_down(settings, reporter)
    with Run("retry-failed" if retry else "nightly", settings, _ALL, reporter) as run:
        try:
            ingest.ingest(run, retry)
            extract.extract(run, retry)
            load_error = _try_load(run)
            built = index.index(run)
            if built:
                _publish(run, built)
            suspect_labels.find_suspect_labels(run)
        except GateError as refused:
            _report(run, built, "refused", str(refused))
            raise
        if built and run.facts.publish and run.facts.publish.pinned:
            current = built
        else:
            current = Builds.open(settings).find(space=run.space.id)
            run.build = current.path
        _report(run, current, "failed" if load_error else "done", str(load_error) if load_error else None)
        if load_error:
            raise load_error
    print(reports.summary(run.facts, settings, current))


def _try_load(run: Run) -> ServiceError | None:
    """Loads. If the store is down, the run goes on to the index; returns the error to raise at its end."""
    try:
        load.load(run)
    except ServiceError as error:
        run.say(f"load: {error}")
        return ServiceError(f"{error} – the index was published without the load; run `load` when the store is back")
    return None


def retry_failed(settings: Settings) -> None:
    """Run nightly, and read and extract again the photos in the failure ledger."""
    nightly(settings, retry=True)


def ingest_job(settings: Settings) -> None:
    """Update the tables from a source."""
    check_source(settings.source)
    with Run("ingest", settings, ("ingest",)) as run:
        ingest.ingest(run)


def extract_job(settings: Settings) -> None:
    """Extract every photo without a vector in the space."""
    with Run("extract", settings, ("extract",)) as run:
        extract.extract(run)


def backfill(settings: Settings, scope: Scope, dry_run: bool = False) -> None:
    """Extract the missing vectors of a space, optionally of some ingest dates or one category."""
    spaces = {space.id: estimate.backfill(settings, space, scope) for space in spaces_of(settings)}
    if dry_run:
        for name, (step, cells) in spaces.items():
            print(_dry_run(step, cells, f"{name}, {scope}"))
        print("dry run: nothing was extracted")
        return
    with Run("backfill", settings, ("extract",)) as run:
        run.say(f"backfill: {scope}: {max(step.count for step, _ in spaces.values())} photos without a vector")
        facts = extract.extract(run, scope=scope)
    done = f"{facts.extracted:,} extracted, {facts.failed:,} failed of {facts.pending:,}"
    print(f"{', '.join(spaces)}, {scope}: {done}")
    if facts.standing_failures:
        standing = pluralize(facts.standing_failures, "failure")
        print(f"{standing} in the ledger: `likeness failures list --root {settings.root}` says why")


def _dry_run(step: estimate.StageEstimate, cells: Sequence[CoverageCell], what: str) -> str:
    """The text of a dry run for a space: a line for each ingest date, then the total."""
    lines = [f"{'ingest_date':<12}{'photos':>12}{'present':>12}{'failed':>12}{'to extract':>12}"]
    lines += [f"{c.ingest_date:<12}{c.photos:>12,}{c.present:>12,}{c.failed:>12,}{c.missing:>12,}" for c in cells]
    basis = f" at the rate of run {step.basis}" if step.basis else ""
    time = f"time: {estimate.duration(step.seconds)}{basis}"
    stored = size(step.stored) if step.stored else "nothing"
    lines += [f"{what}: {step.count:,} photos to extract; {time}; written, at most: {stored}"]
    return "\n".join(lines)


def label_job(settings: Settings) -> None:
    """Tag every photo with the classes that the space's network predicts."""
    space, names = logits_space(settings, settings.extract.space.partition(".")[0])
    with Run("label", settings, ("extract",), space=space) as run:
        extract.extract(run)
        facts = label.label(run, names)
    print(f"{run.space.id}: {facts.labelled:,} photos labelled; most frequent first labels of all photos:")
    for name, count in facts.labels.items():
        print(f"{count:>9,}  {name}")


def train_job(settings: Settings, request: TrainingRequest) -> ModelCard:
    """Train a model on the catalogue, and evaluate it on photos that it was not trained on."""
    from likeness.spark.stages.train import train  # torch takes seconds to load, and no other job needs it here
    from likeness.training.plan import plan_training

    space = untrained_space(settings.extract.space) if request.scratch or request.teacher else space_of(settings)
    with Run("train", settings, ("train",), space=space) as run:
        card = train(run, plan_training(settings, request, run.run_id))
        with run.stage(ReportFacts):
            run.say(f"report: {reports.write_model_report(card, settings)}")
        run.say(f"train: model {card.name} {card.version} of {card.photos:,} photos; metrics on {card.evaluation}:")
    _print_metrics(card.metrics)
    print(f"to put it in service: likeness models promote {card.name} --root {settings.root}")
    return card


def _print_metrics(metrics: Mapping[str, Metric]) -> None:
    for name, metric in metrics.items():
        print(f"{name:<16} {metric.value:.4f}  ({metric.low:.4f} to {metric.high:.4f})")


def evaluate_job(settings: Settings, model: str, version: str, on: str) -> Evaluation:
    """Evaluate a model on an evaluation set that it was not trained on."""
    from likeness.spark.stages.evaluate import evaluate

    evaluation_set = EvaluationSets(settings.root).find(on)
    if not evaluation_set:
        raise UsageError(f"root {settings.root} has no evaluation set; create one with `likeness models freeze`")
    models = ModelRegistry(settings.root, settings.extract.cache)
    card = models.card(model, version)
    with Run("evaluate", settings, ("extract",), space=models.space(card)) as run:
        evaluation = evaluate(run, card, evaluation_set)
        run.say(f"evaluate: model {card.name} {card.version}; metrics on {evaluation_set.id}:")
    _print_metrics(evaluation.metrics)
    return evaluation


def promote_job(settings: Settings, model: str, version: str, reason: str) -> None:
    """Put a version of a model in service, unless it is worse than the one in service."""
    models = ModelRegistry(settings.root, settings.extract.cache)
    card = models.candidate(model, version)
    with Run("promote", settings, (), space=models.space(card)) as run, run.stage(PromoteFacts) as facts:
        before, now = models.promote(model, card.version, reason)
        facts.model, facts.version, facts.before = model, now.version, before.version if before else None
    print(f"{model}: {now.version} is in service" + (f", before: {before.version}" if before else ""))


def load_job(settings: Settings) -> None:
    """Update the keyed store from the tables."""
    with Run("load", settings, ("load",)) as run:
        load.load(run)


def index_job(settings: Settings) -> None:
    """Build and audit shards, without publishing them."""
    with Run("index", settings, ("index",)) as run:
        built = index.index(run)
        run.build = built.path if built else None
    if built:
        print(f"to try it: likeness search PHOTO --root {settings.root} --build {built.build}")


def publish_job(settings: Settings) -> None:
    """Put the newest build of the space in service, if it passes its gates; also over one that a rollback pinned."""
    with Run("publish", settings, ("index",)) as run:
        builds = Builds.open(settings)
        paths = builds.of(run.space.id)
        if not paths:
            raise UsageError(f"root {settings.root} has no build of {run.space.id}; run ./spark-submit.sh index first")
        _publish(run, builds.read(paths[-1]), unpin=True)


def _publish(run: Run, manifest: Manifest, unpin: bool = False) -> None:
    with run.lock("publish"):  # a root of the version before has one CURRENT for all spaces
        index.publish(run, manifest, "remove" if unpin else "respect")


def compact_job(settings: Settings) -> None:
    """Merge the tables' small files, and delete snapshots that nothing refers to."""
    with Run("compact", settings, _ALL, exclusive=True) as run:
        compact.compact(run)


def gc_job(settings: Settings) -> None:
    """Delete builds, files and snapshots that nothing refers to."""
    with Run("gc", settings, _ALL, exclusive=True) as run:
        compact.gc(run)


def copy_root(settings: Settings, to: str) -> None:
    """Copy a root to another place."""
    with Run("copy", settings, _ALL, exclusive=True) as run:
        copy.copy(run, to)


def forget_products(settings: Settings, product_ids: Sequence[str]) -> None:
    """Erase products from tables, keyed store, builds and reports."""
    with Run("forget", settings, _ALL, exclusive=True) as run:
        erase.forget(run, product_ids)


def _report(run: Run, manifest: Manifest | None, status: str, error: str | None = None) -> None:
    with run.stage(ReportFacts):
        try:
            run.say(f"report: {reports.write_run_report(run.row(status, error), run.settings, manifest)}")
        except OSError as failed:  # the work is done and published: a missing report does not fail the run
            run.say(f"report: cannot be written: {failed}; `likeness runs show {run.run_id}` has the same facts")
