"""The Spark session of a job.   [pyspark]"""

import logging
import os
import sys
from pathlib import Path

from pyspark.errors import PySparkException
from pyspark.sql import SparkSession

from likeness.core.errors import ServiceError
from likeness.core.settings import Settings
from likeness.spark.submit.options import LOCAL_CONFS

_EXTENSIONS = "org.apache.iceberg.spark.extensions.IcebergSparkSessionExtensions"


def open_session(settings: Settings, app: str) -> SparkSession:
    """The active session, or a new one: local, unless spark-submit started this process.

    Raises:
        ServiceError: there is no Java, or no Iceberg jar on the class path.
    """
    logging.getLogger("py4j").setLevel(logging.ERROR)
    os.environ.setdefault("PYSPARK_PYTHON", sys.executable)
    builder = SparkSession.builder.appName(f"likeness {app}").config(map={**_defaults(settings)})
    try:
        spark = builder.getOrCreate()
    except (PySparkException, RuntimeError, OSError) as error:
        raise ServiceError(f"Spark does not start: {error}; install Java 17, or set JAVA_HOME to it") from None
    try:
        java = spark._jvm.java.lang  # type: ignore[union-attr]
        java.Class.forName(_EXTENSIONS, False, java.Thread.currentThread().getContextClassLoader())
    except Exception:
        spark.stop()
        raise ServiceError(
            "Iceberg's jar is not on Spark's class path; start the job with ./spark-submit.sh, "
            "or set LIKENESS_JARS to iceberg-spark-runtime-4.1_2.13-1.12.0.jar"
        ) from None
    if (spark.sparkContext.master or "").startswith("local"):
        # local tables are small: more partitions than cores only take time
        spark.conf.set("spark.sql.shuffle.partitions", str(spark.sparkContext.defaultParallelism))
    return spark


def _defaults(settings: Settings) -> dict[str, str]:
    """Spark properties that the jobs need; spark-submit sets master and jars."""
    defaults = {
        "spark.sql.extensions": _EXTENSIONS,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.execution.arrow.pyspark.enabled": "true",
        # batches of photos are limited by bytes as well as by rows: a photo has 5 kB to 30 MB
        "spark.sql.execution.arrow.maxRecordsPerBatch": "256",
        "spark.sql.execution.arrow.maxBytesPerBatch": "16777216",
        "spark.sql.adaptive.coalescePartitions.parallelismFirst": "false",
        "spark.task.maxFailures": "4",
        "spark.yarn.maxAppAttempts": "1",
    }
    if os.environ.get("PYSPARK_GATEWAY_PORT"):
        return defaults
    os.environ.setdefault("SPARK_LOCAL_IP", "127.0.0.1")
    jars = os.environ.get("LIKENESS_JARS") or ",".join(str(p) for p in Path(sys.prefix, "jars").glob("*.jar"))
    return defaults | {
        **LOCAL_CONFS,
        "spark.master": "local[*,4]",
        "spark.jars": jars,
        "spark.driver.memory": os.environ.get("LIKENESS_DRIVER_MEMORY", "4g"),
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
