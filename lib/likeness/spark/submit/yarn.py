"""Submits jobs to YARN: ships Python and Spark's jars, and returns the exit code of a remote driver.   [pyspark]

In cluster mode YARN reports only success or failure, so the exit code is read from the run's row in `runs`.
"""

import hashlib
import os
import sys
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import run

from likeness import storage
from likeness.core import uris
from likeness.core.errors import ServiceError, UsageError
from likeness.core.settings import Extract, Settings
from likeness.index.builds import Builds
from likeness.ops.reports import summary
from likeness.spark.submit.job_cli import read_flags
from likeness.spark.submit.options import Options, confs
from likeness.storage.leases import run_name
from likeness.storage.run_history import read_runs
from likeness.storage.table_reader import TableReader

_ARCHIVED_PYTHON = "./environment/bin/python"
_GPU_SCRIPT = Path(__file__).with_name("gpu_addresses.sh")


def submit(spark_submit: str, jars: str, program: str, flags: Sequence[str], options: Options) -> int:
    """Runs spark-submit, waits for it and returns the job's exit code.

    Raises:
        UsageError: settings that do not work on a cluster.
        ServiceError: HDFS cannot be reached, or the run left no row.
    """
    job = Path(program).stem.replace("_", "-")
    settings, run_id = read_flags(job, flags), run_name(job)
    _check(settings, options)
    _check_writable(settings.root, run_id)
    words = yarn_options(options, jars, settings, run_id, os.environ)
    if not {"spark.yarn.archive", "spark.yarn.jars"} & options.confs.keys():
        words += ["--conf", f"spark.yarn.archive={_spark_archive(Path(spark_submit).parents[1], jars, settings.root)}"]
    environment = os.environ | {"LIKENESS_RUN_ID": run_id}
    if os.environ.get("LIKENESS_ARCHIVE"):
        environment["PYSPARK_PYTHON"] = _ARCHIVED_PYTHON
    if not options.cluster:
        return run([spark_submit, *words, program, *flags], env=environment, check=False).returncode
    flags, files = ship_config(flags)
    code = run([spark_submit, *words, *files, program, *flags], env=environment, check=False).returncode
    return _outcome(settings, run_id) or code


def yarn_options(
    options: Options, jars: str, settings: Settings, run_id: str, environment: Mapping[str, str]
) -> list[str]:
    """spark-submit's options for YARN, but for the archive of Spark's jars and the configuration file."""
    archive = environment.get("LIKENESS_ARCHIVE", "")
    python = _ARCHIVED_PYTHON if archive else sys.executable
    shared = _settings_variables(environment) | {"PYSPARK_PYTHON": python}
    defaults = {
        # Python and its networks use memory outside the JVM's heap
        "spark.executor.memory": "2g",
        "spark.executor.memoryOverhead": "3g",
        "spark.yarn.maxAppAttempts": "1",  # a second driver would be refused by the lease of the first
        "spark.yarn.submit.waitAppCompletion": "true",
        "spark.yarn.tags": f"likeness,{run_id}",
        # otherwise closing a file takes 400 ms
        "spark.hadoop.dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
        **{f"spark.executorEnv.{name}": value for name, value in shared.items()},
        **gpu_confs(settings.extract),
    }
    if options.cluster:
        master = shared | {"PYSPARK_DRIVER_PYTHON": python, "LIKENESS_RUN_ID": run_id}
        defaults |= {f"spark.yarn.appMasterEnv.{name}": value for name, value in master.items()}
        defaults["spark.driver.memoryOverhead"] = "3g"
    else:
        defaults["spark.driver.extraClassPath"] = jars.replace(",", ":")
    words = ["--master", "yarn", "--deploy-mode", options.deploy_mode]
    words += ["--driver-memory", environment.get("LIKENESS_DRIVER_MEMORY", "2g")]
    words += ["--jars", ",".join(options.jars)] if options.jars else []
    words += ["--archives", f"{archive}#environment"] if archive else []
    return words + confs(defaults | options.confs) + options.rest


def _check_writable(root: str, run_id: str) -> None:
    """Writes the run's id into the root, so that an unwritable root is reported before Spark starts."""
    uri = uris.join(uris.canonical(root), "lib", "submitted")
    try:
        storage.files(uri).write(uri, f"{run_id}\n".encode())
    except OSError as error:
        raise ServiceError(f"root {root} cannot be written: {error}; name a root that can be written") from None


def _spark_archive(spark_home: Path, jars: str, root: str) -> str:
    """The URI in the root of a zip of Spark's jars and ours; uploads it if it is missing."""
    paths = sorted([*spark_home.glob("jars/*.jar"), *(Path(jar) for jar in jars.split(",") if jar)])
    digest = hashlib.sha256("\n".join(f"{path.name} {path.stat().st_size}" for path in paths).encode()).hexdigest()
    uri = uris.join(uris.canonical(root), "lib", f"spark-{digest[:12]}.zip")
    files = storage.files(uri)
    if not files.exists(uri):
        print(f"likeness: uploading Spark's jars to {uri} (only once)", file=sys.stderr, flush=True)
        with tempfile.NamedTemporaryFile(suffix=".zip") as draft:
            with zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
                for path in paths:
                    archive.write(path, path.name)
            draft.flush()
            files.upload(draft.name, uri)
    return uri


def ship_config(flags: Sequence[str]) -> tuple[list[str], list[str]]:
    """Flags for a remote driver, and the options that ship the configuration file to it."""
    for place, flag in enumerate(flags):
        name, equals, value = flag.partition("=")
        if name == "--config":
            path = Path(value if equals else flags[place + 1]).absolute()
            rest = flags[place + (1 if equals else 2) :]
            return [*flags[:place], "--config", "likeness.toml", *rest], ["--files", f"{path}#likeness.toml"]
    return list(flags), []


def _outcome(settings: Settings, run_id: str) -> int:
    """The exit code of a run with a remote driver, from its row; prints its error or its summary."""
    rows = read_runs(TableReader(settings), f"run_id = '{run_id}'")
    if not rows:
        raise ServiceError(
            f"run {run_id} left no row: its driver did not start, or was killed. "
            f"`yarn application -list -appStates ALL -appTags {run_id}` lists the application, "
            "`yarn logs -applicationId` shows its log; run the job again to complete the work"
        )
    row = rows[0]
    if row.error:
        print(f"error: {row.error}", file=sys.stderr)
    elif row.build:
        print(summary(row.facts, settings, Builds.open(settings).find(row.build)))
    return row.facts.end.exit_code if row.facts.end else 1


def gpu_confs(extract: Extract) -> dict[str, str]:
    """Spark properties that request GPUs from YARN and share each among tasks; empty without GPUs."""
    if not extract.gpus:
        return {}
    return {
        "spark.executor.resource.gpu.amount": str(extract.gpus),
        "spark.executor.resource.gpu.discoveryScript": f"./{_GPU_SCRIPT.name}",
        "spark.task.resource.gpu.amount": str(round(1 / extract.tasks_per_gpu, 4)),
        "spark.executor.cores": str(extract.gpus * extract.tasks_per_gpu),
        "spark.files": str(_GPU_SCRIPT),
    }


def _check(settings: Settings, options: Options) -> None:
    if not os.environ.get("HADOOP_CONF_DIR") and not os.environ.get("YARN_CONF_DIR"):
        raise UsageError("--master yarn needs the cluster's configuration; set HADOOP_CONF_DIR to its folder")
    if uris.scheme(settings.root) == "file":
        raise UsageError(
            f"root = {settings.root!r} is a path of this machine; name a root of the cluster, as hdfs://..."
        )
    if options.cluster and settings.source.uri and uris.scheme(settings.source.uri) == "file":
        raise UsageError(
            f"source.uri = {settings.source.uri!r} is a path of this machine, and the driver runs on another one; "
            "name a source of the cluster, as hdfs://..."
        )


def _settings_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """The variables LIKENESS_* that are settings; the others apply to this machine only."""
    prefix = "LIKENESS_"
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(prefix) and name.removeprefix(prefix).partition("__")[0].lower() in Settings.model_fields
    }
