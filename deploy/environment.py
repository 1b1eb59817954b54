"""Installs the environment `.venv` in the project's root, with Iceberg's jar inside.

Every start of `spark-submit.sh` runs this script, so it ends at once if nothing is missing. It needs only the standard
library, and prints messages to stderr: stdout is for the caller.
"""

from __future__ import annotations

import argparse
import fcntl
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from subprocess import PIPE, STDOUT
from typing import NoReturn
from xml.sax.saxutils import quoteattr

ROOT = Path(__file__).resolve().parent.parent
VENV = ROOT / ".venv"
PYTHON = VENV / "bin" / "python"
STAMP = VENV / "likeness-stamp.json"
LOG = VENV / "likeness-install.log"
DISK_GB = 9
OUTDATED = {  # what the stamp records, and the message if it has changed
    "sources": "pyproject.toml or constraints.txt changed",
    "python": "Python changed",
    "root": "the project was moved",
}
ICEBERG = ("org.apache.iceberg", "iceberg-spark-runtime-4.1_2.13", "1.12.0")
JAR = VENV / "jars" / f"{ICEBERG[1]}-{ICEBERG[2]}.jar"
JAR_SHA256 = "3123c3798af642dd537230923548e013ef41cc28b6626e5225808cf5670a0f82"
IVY_LIMITS = ("-Dsun.net.client.defaultConnectTimeout=5000", "-Dsun.net.client.defaultReadTimeout=20000")
JAVA_PACKAGES = "openjdk-17-jre-headless (Debian, Ubuntu), java-17-openjdk (Fedora) or temurin@17 (macOS)"


def say(message: str) -> None:
    """Prints a message."""
    print(f"likeness: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """Exits with a message on a problem that only the user can solve."""
    sys.exit(f"likeness: {message}")


def find_java() -> str:
    """Finds the Java that Spark will use; exits if Spark does not support its version."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    if not java:
        where = f"JAVA_HOME={home} has no bin/java" if home else "none was found"
        refuse(f"needs Java 17 to 21: {where}; install {JAVA_PACKAGES}, or set JAVA_HOME")
    release = Path(java).resolve().parent.parent / "release"
    if release.is_file():  # faster to read than a JVM starts
        text = release.read_text(encoding="utf-8", errors="replace")
    else:
        text = subprocess.run([java, "-version"], stdout=PIPE, stderr=STDOUT, text=True, check=False).stdout
    version = re.search(r'(?:JAVA_VERSION=|version )"((\d+)[^"]*)"', text)
    if not version or not 17 <= int(version[2]) <= 21:  # on Java 24 and newer, Spark 4.1 fails during a job
        seen = version[1] if version else "of no known version"
        refuse(f"needs Java 17 to 21: {java} is {seen}; install {JAVA_PACKAGES}, or set JAVA_HOME")
    return java


def user_jars() -> str:
    """The jars of LIKENESS_JARS, local ones as absolute paths that exist; empty if it is unset."""
    jars = [name.strip() for name in os.environ.get("LIKENESS_JARS", "").split(",") if name.strip()]
    for name in jars:
        if "://" not in name and not Path(name).is_file():
            refuse(f"LIKENESS_JARS names {name}, which is no file; name a copy of {JAR.name}, or unset it")
    return ",".join(name if "://" in name else str(Path(name).absolute()) for name in jars)


def user_environment(name: str, jars: str) -> tuple[str, str, str]:
    """Checks the interpreter of LIKENESS_PYTHON; returns it with its Spark and the jars."""
    if not (python := shutil.which(name)):
        refuse(f"LIKENESS_PYTHON={name} is no executable; name a Python with likeness installed, or unset it")
    program = "import importlib.util as u; [print(u.find_spec(name).origin) for name in ('likeness', 'pyspark')]"
    printed = subprocess.run([python, "-c", program], capture_output=True, text=True, check=False)
    if printed.returncode:
        refuse(f"LIKENESS_PYTHON={name} lacks likeness or pyspark; install likeness[all] there, or unset it")
    if not jars:
        refuse(f"LIKENESS_PYTHON={name} needs Iceberg's jar; set LIKENESS_JARS=/path/to/{JAR.name}")
    return str(Path(python).absolute()), str(Path(printed.stdout.splitlines()[1]).parent), jars


def state() -> dict[str, str]:
    """What an installation depends on; `.venv` keeps its Python, whichever one runs this script."""
    sources = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    python = str(PYTHON.resolve()) if PYTHON.exists() else ""
    return {"sources": hashlib.sha256(sources).hexdigest(), "python": python, "root": str(ROOT)}


def inspect() -> tuple[str, set[str]]:
    """The reason to install `.venv` anew, empty if there is none, and the extras that it has."""
    if not LOG.exists():
        if VENV.is_dir() and any(VENV.iterdir()):
            refuse(f"{VENV} was not made by this script; remove it, or set LIKENESS_PYTHON={PYTHON} to use it")
        return "first start", set()
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "the last installation was interrupted", set()
    now = state()
    stale = [reason for key, reason in OUTDATED.items() if stamp.get(key) != now[key]]
    return "".join(stale[:1]), set(stamp["extras"])


def install(extras: set[str], lock: int) -> None:
    """Installs the missing extras, or everything; the stamp is written last, when `.venv` is complete."""
    reason, installed = inspect()
    if not reason and extras <= installed:
        return
    STAMP.unlink(missing_ok=True)  # after a kill, the next start finds no stamp and installs again
    if reason:
        say(f"{reason}: installing into .venv takes about 3 minutes and 7 GB ({LOG.relative_to(ROOT)})")
        create(lock)
    else:
        say(f"adding {', '.join(sorted(extras - installed))} to .venv")
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    run([*pip, "-c", "constraints.txt", "-e", f".[{','.join(sorted(installed | extras))}]"], lock)
    draft = STAMP.with_suffix(".part")
    draft.write_text(json.dumps({**state(), "extras": sorted(installed | extras)}, indent=2), encoding="utf-8")
    draft.replace(STAMP)
    say(".venv is complete")


def create(lock: int) -> None:
    """Creates an empty environment in `.venv`, which may be a link to another disk; the log marks it as ours."""
    if importlib.util.find_spec("ensurepip") is None:  # Debian has it, and venv, in a separate package
        refuse(f"{sys.executable} lacks its module ensurepip; install python3-venv (Debian, Ubuntu)")
    VENV.mkdir(exist_ok=True)
    LOG.write_text("", encoding="utf-8")
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != LOG:
            entry.unlink()
    free = shutil.disk_usage(VENV).free / 1e9
    if free < DISK_GB:
        refuse(f"{VENV} needs {DISK_GB} GB of disk and {free:.1f} GB are free; free some, or link it to another disk")
    base = getattr(sys, "_base_executable", sys.executable)  # this script may run in the `.venv` deleted just now
    run([base, "-m", "venv", str(VENV)], lock)


def run(command: list[str], lock: int) -> None:
    """Runs one step with its output in the log. It inherits the lock, so that others wait for an orphaned pip."""
    step = subprocess.Popen(command, cwd=ROOT, stdout=PIPE, stderr=STDOUT, pass_fds=[lock])
    with LOG.open("a", encoding="utf-8") as log, step:
        for raw in step.stdout or ():
            log.write(line := raw.decode(errors="replace"))
            if large := re.match(r"\s*Downloading (\w+-[\d.]*\d)\S* \((\d{3,}\.\d MB)\)", line):
                say(f"downloading {large[1]}, {large[2]}")
            elif line.startswith("Installing collected packages: "):
                say(f"unpacking {line.count(',') + 1} packages")
    if step.returncode:
        print(*LOG.read_text(encoding="utf-8").splitlines()[-12:], sep="\n", file=sys.stderr)
        remedy = "solve the problem (PIP_INDEX_URL sets a mirror, HTTPS_PROXY a proxy), or set LIKENESS_PYTHON"
        refuse(f"{' '.join(command[1:4])} ended with exit code {step.returncode}, see {LOG}; {remedy}")


def spark_home() -> Path:
    """The folder of Spark in `.venv`."""
    return next(VENV.glob("lib/python*/site-packages/pyspark"), VENV / "pyspark")


def fetch_iceberg(java: str) -> None:
    """Downloads Iceberg's jar with the Ivy inside Spark, and checks its SHA-256."""
    mirror = os.environ.get("LIKENESS_MAVEN_REPOSITORY", "")
    say(f"fetching {JAR.name}, 48 MB")
    with tempfile.TemporaryDirectory(dir=VENV, prefix="ivy-") as folder:
        jar = Path(folder, JAR.name)
        problem = retrieve(java, mirror, folder)
        if jar.is_file():
            same = hashlib.sha256(jar.read_bytes()).hexdigest() == JAR_SHA256
            problem = "" if same else "its SHA-256 is not that of the release"
        if problem:
            source = re.sub(r"//[^/@]*@", "//", mirror) or "Maven's central repository"
            remedy = f"LIKENESS_JARS=/path/to/{JAR.name} or LIKENESS_MAVEN_REPOSITORY=URL of a mirror"
            refuse(f"cannot fetch {JAR.name} from {source}: {problem}; set {remedy}")
        JAR.parent.mkdir(exist_ok=True)
        jar.replace(JAR)


def retrieve(java: str, mirror: str, folder: str) -> str:
    """Downloads the jar with Ivy into the folder; returns the error, in case the jar is missing afterwards."""
    ivy = next(spark_home().glob("jars/ivy-*.jar"), "ivy.jar")
    command = [java, *IVY_LIMITS, "-jar", str(ivy), "-dependency", *ICEBERG, "-notransitive"]
    command += ["-cache", folder, "-confs", "default", "-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
    if mirror:
        resolver = f'<ibiblio name="mirror" m2compatible="true" root={quoteattr(mirror)}/>'
        settings = f'<settings defaultResolver="mirror"/><resolvers>{resolver}</resolvers>'
        Path(folder, "settings.xml").write_text(f"<ivysettings>{settings}</ivysettings>", encoding="utf-8")
        command += ["-settings", f"{folder}/settings.xml"]
    try:
        output = subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=600, check=False).stdout
    except subprocess.TimeoutExpired:
        return "not done within 600 s"
    problem = re.search(r"\w+Exception: [^)\n]*|Host \S+ not found|Error: .*", output)
    return problem[0] if problem else "it does not have the file"


def prepare(extras: set[str]) -> tuple[str, str, str]:
    """The interpreter, its Spark and the jars to submit with; installs them if they are missing."""
    java, jars, interpreter = find_java(), user_jars(), os.environ.get("LIKENESS_PYTHON")
    if interpreter:
        return user_environment(interpreter, jars)
    reason, installed = inspect()
    if reason or not extras <= installed or not (jars or JAR.is_file()):
        with (ROOT / ".venv.lock").open("w") as lock:  # the kernel releases it when its holders end
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another process installs .venv; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            install(extras, lock.fileno())
            if not (jars or JAR.is_file()):
                fetch_iceberg(java)
    return str(PYTHON), str(spark_home()), jars or str(JAR)


def main() -> None:
    """Installs the environment, or exits with a message."""
    parser = argparse.ArgumentParser(description="Install .venv with Iceberg's jar, if it is missing or outdated.")
    parser.add_argument("--extra", action="append", default=["all"], choices=["all", "dev"])
    parser.add_argument("--print", action="store_true", help="print the interpreter, its Spark and the jars")
    arguments = parser.parse_args()
    try:
        paths = prepare(set(arguments.extra))
    except OSError as error:
        refuse(f"cannot write {VENV}: {error}; make it writable, or set LIKENESS_PYTHON")
    except KeyboardInterrupt:
        say("stopped; the next start completes the installation")
        sys.exit(130)
    if arguments.print:
        print(*paths, sep="\n")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - any Python may run this script
        refuse(f"needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}; install one")
    main()
