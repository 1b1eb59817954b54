"""JVMs that start quickly: an archive of the classes that Spark loads (JEP 350), made once and mapped by every JVM.

`python -m tests.jvm ARCHIVE` makes one.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pyspark

from likeness.spark.submit.options import LOCAL_CONFS

PROJECT = Path(__file__).parents[1]
CACHE = PROJECT / "var" / "tests"
OPTIONS = f"{LOCAL_CONFS['spark.driver.extraJavaOptions']} -Xlog:cds*=off"
"""As local runs have: a JVM that works for a minute spends most of it on loading classes and on compiling them well."""
DRIVER_OPTIONS = "-Xmn400m"
"""Of a driver's 2 GB: a young generation that grows from little is collected a hundred times."""
INTERPRETED = (
    "spark.sql.codegen.wholeStage=false",
    "spark.sql.codegen.factoryMode=NO_CODEGEN",
    "spark.sql.ui.explainMode=simple",
    "spark.sql.adaptive.enabled=false",
)
"""Compiling a query, describing its plan or planning it again takes longer than running it over so few rows."""


def iceberg() -> str:
    """The jars that `make setup` has fetched, separated by commas."""
    return os.environ.get("LIKENESS_JARS") or ",".join(map(str, sorted(Path(sys.prefix, "jars").glob("*.jar"))))


def use_archive() -> None:
    """Makes every Spark that this process or its children start use the archive, and interpret its queries."""
    _start_with(f"{OPTIONS} -XX:SharedArchiveFile={archive()}")


def _start_with(options: str) -> None:
    """Options of JVMs to come. Their class path begins with jars: a folder in front would keep them off the archive."""
    os.environ["LIKENESS_JARS"] = iceberg()
    os.environ.setdefault("LIKENESS_DRIVER_MEMORY", "2g")
    os.environ["SPARK_CONF_DIR"] = str(CACHE / "none")
    log = PROJECT / "deploy" / "conf" / "log4j2.properties"
    os.environ["SPARK_SUBMIT_OPTS"] = f"{options} {DRIVER_OPTIONS} -Dlog4j2.configurationFile={log}"
    os.environ["PYSPARK_SUBMIT_ARGS"] = " ".join([*spark_options(), "pyspark-shell"])


def spark_options() -> list[str]:
    """Options of spark-submit for a driver on this machine: Iceberg among the archived classes, queries interpreted."""
    words = ["--driver-class-path", iceberg().replace(",", ":")]
    return words + [word for conf in INTERPRETED for word in ("--conf", conf)]


@contextlib.contextmanager
def lock(path: Path) -> Iterator[None]:
    """Holds a lock that only one process has at a time."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def archive() -> Path:
    """The archive for this Java and these jars; whoever asks first makes it, the others wait."""
    java = subprocess.run([_java(), "-version"], capture_output=True, check=True).stderr
    jars = sorted([*Path(pyspark.__file__).parent.glob("jars/*.jar"), *map(Path, iceberg().split(","))])
    stats = [(str(jar), jar.stat().st_size, jar.stat().st_mtime_ns) for jar in jars]
    path = CACHE / f"classes-{hashlib.sha256(repr((java, OPTIONS, stats)).encode()).hexdigest()[:12]}.jsa"
    with lock(CACHE / "classes.lock"):
        if not path.exists():
            for stale in CACHE.glob("classes-*.jsa"):
                stale.unlink()
            draft = path.with_suffix(".draft")
            subprocess.run([sys.executable, "-m", "tests.jvm", str(draft)], cwd=PROJECT, check=True)
            draft.replace(path)
    return path


@contextlib.contextmanager
def making_archive() -> Iterator[None]:
    """Makes the archive in another process while the context is open; whoever needs it sooner waits for that one."""
    command = [sys.executable, "-c", "from tests import jvm; jvm.archive()"]
    null = subprocess.DEVNULL
    with subprocess.Popen(command, cwd=PROJECT, start_new_session=True, stdout=null, stderr=null) as process:
        yield
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return str(Path(home, "bin", "java")) if home else "java"


def make_archive(path: Path) -> None:
    """Runs what most tests run, a night, in a JVM that writes the classes it has loaded when it ends."""
    path.unlink(missing_ok=True)
    _start_with(f"{OPTIONS} -XX:ArchiveClassesAtExit={path}")
    from likeness.core.settings import Settings, load_settings
    from likeness.spark import jobs
    from likeness.spark.session import open_session

    photos = sorted((PROJECT / "deploy" / "sample" / "hat").iterdir())
    with tempfile.TemporaryDirectory() as name:
        source = Path(name, "photos", "hat")
        source.mkdir(parents=True)
        flags = {"root": f"{name}/root", "source.uri": str(source.parent), "extract.space": "hog.blocks"}
        settings = load_settings(None, flags)
        spark = open_session(Settings(), "archive")
        shutil.copy(photos[0], source)
        jobs.nightly(settings)
        gateway = spark.sparkContext._gateway
        assert gateway
        spark.stop()
        gateway.shutdown()
        gateway.proc.stdin.close()  # the JVM ends when nothing can come any more
        gateway.proc.wait()


if __name__ == "__main__":
    make_archive(Path(sys.argv[1]))
