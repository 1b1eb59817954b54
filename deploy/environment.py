"""Makes what likeness runs in: the environment `.venv` in the project's root, with Iceberg's jar inside.

Every start of `spark-submit.sh` passes here, so the way through is short when nothing is to be done. It needs
nothing but the standard library, and talks on stderr: stdout belongs to whoever calls.
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
ROOM_GB = 9
OUTDATED = {  # what a stamp must still agree with, and what to say where it does not
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
    """Tells the user one thing."""
    print(f"likeness: {message}", file=sys.stderr, flush=True)


def refuse(message: str) -> NoReturn:
    """Ends with one line on something that only the user can put right."""
    sys.exit(f"likeness: {message}")


def find_java() -> str:
    """Finds the Java that Spark will take, and refuses one that Spark does not run on."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which(f"{home}/bin/java" if home else "java")
    if not java:
        where = f"JAVA_HOME={home} holds no bin/java" if home else "none was found"
        refuse(f"needs Java 17 to 21: {where}; install {JAVA_PACKAGES}, or set JAVA_HOME")
    release = Path(java).resolve().parent.parent / "release"
    if release.is_file():  # quicker to read than a JVM is to start
        text = release.read_text(encoding="utf-8", errors="replace")
    else:
        text = subprocess.run([java, "-version"], stdout=PIPE, stderr=STDOUT, text=True, check=False).stdout
    version = re.search(r'(?:JAVA_VERSION=|version )"((\d+)[^"]*)"', text)
    if not version or not 17 <= int(version[2]) <= 21:  # on 24 and newer, Spark 4.1 fails in mid-job
        seen = version[1] if version else "of no known version"
        refuse(f"needs Java 17 to 21: {java} is {seen}; install {JAVA_PACKAGES}, or set JAVA_HOME")
    return java


def given_jars() -> str:
    """Returns the jars of LIKENESS_JARS, local ones absolute and seen to exist; nothing where it is unset."""
    jars = [name.strip() for name in os.environ.get("LIKENESS_JARS", "").split(",") if name.strip()]
    for name in jars:
        if "://" not in name and not Path(name).is_file():
            refuse(f"LIKENESS_JARS names {name}, which is no file; name a copy of {JAR.name}, or unset it")
    return ",".join(name if "://" in name else str(Path(name).absolute()) for name in jars)


def given_environment(name: str, jars: str) -> tuple[str, str, str]:
    """Checks the interpreter that LIKENESS_PYTHON names; returns it with its Spark and the jars."""
    if not (python := shutil.which(name)):
        refuse(f"LIKENESS_PYTHON={name} is no executable; name a Python that holds likeness, or unset it")
    look = "import importlib.util as u; [print(u.find_spec(name).origin) for name in ('likeness', 'pyspark')]"
    found = subprocess.run([python, "-c", look], capture_output=True, text=True, check=False)
    if found.returncode:
        refuse(f"LIKENESS_PYTHON={name} lacks likeness or pyspark; install likeness[all] there, or unset it")
    if not jars:
        refuse(f"LIKENESS_PYTHON={name} comes without Iceberg; set LIKENESS_JARS=/path/to/{JAR.name}")
    return str(Path(python).absolute()), str(Path(found.stdout.splitlines()[1]).parent), jars


def state() -> dict[str, str]:
    """Tells what an installation hangs on; `.venv` keeps its own Python, whichever one starts this script."""
    sources = b"".join((ROOT / name).read_bytes() for name in ("pyproject.toml", "constraints.txt"))
    python = str(PYTHON.resolve()) if PYTHON.exists() else ""
    return {"sources": hashlib.sha256(sources).hexdigest(), "python": python, "root": str(ROOT)}


def inspect() -> tuple[str, set[str]]:
    """Returns why `.venv` must be built anew, if it must, and the extras that it holds."""
    if not LOG.exists():
        if VENV.is_dir() and any(VENV.iterdir()):
            refuse(f"{VENV} was made by other means; remove it, or set LIKENESS_PYTHON={PYTHON} to use it")
        return "first start", set()
    try:
        stamp = json.loads(STAMP.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return "the last installation was interrupted", set()
    now = state()
    stale = [reason for key, reason in OUTDATED.items() if stamp.get(key) != now[key]]
    return "".join(stale[:1]), set(stamp["extras"])


def install(wanted: set[str], lock: int) -> None:
    """Installs what is missing, or all of it; the stamp, written last, says that it is whole."""
    reason, held = inspect()
    if not reason and wanted <= held:
        return
    extras = sorted(held | wanted)
    STAMP.unlink(missing_ok=True)  # from here on a kill leaves nothing that a later start would trust
    if reason:
        say(f"{reason}: installing into .venv takes about 3 minutes and 7 GB ({LOG.relative_to(ROOT)})")
        create(lock)
    else:
        say(f"adding {', '.join(sorted(wanted - held))} to .venv")
    pip = [str(PYTHON), "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    run([*pip, "-c", "constraints.txt", "-e", f".[{','.join(extras)}]"], lock)
    draft = STAMP.with_suffix(".part")
    draft.write_text(json.dumps({**state(), "extras": extras}, indent=2), encoding="utf-8")
    draft.replace(STAMP)
    say(".venv is complete")


def create(lock: int) -> None:
    """Makes an empty environment where `.venv` is, be it a link to a larger disk; the log is its mark."""
    if importlib.util.find_spec("ensurepip") is None:  # Debian keeps it, and so venv, in a package of its own
        refuse(f"{sys.executable} lacks its module ensurepip; install python3-venv (Debian, Ubuntu)")
    VENV.mkdir(exist_ok=True)
    LOG.write_text("", encoding="utf-8")
    for entry in VENV.iterdir():
        if entry.is_dir() and not entry.is_symlink():
            shutil.rmtree(entry)
        elif entry != LOG:
            entry.unlink()
    free = shutil.disk_usage(VENV).free / 1e9
    if free < ROOM_GB:
        refuse(f"{VENV} needs {ROOM_GB} GB of disk and {free:.1f} are free; free some, or link it elsewhere")
    base = getattr(sys, "_base_executable", sys.executable)  # the Python of `.venv`, now gone, may run us
    run([base, "-m", "venv", str(VENV)], lock)


def run(command: list[str], lock: int) -> None:
    """Runs one step, its output in the log; it holds the lock too, so that an orphaned pip is waited for."""
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
        remedy = "put it right (PIP_INDEX_URL names a mirror, HTTPS_PROXY a proxy), or set LIKENESS_PYTHON"
        refuse(f"{' '.join(command[1:4])} ended with exit code {step.returncode}, see {LOG}; {remedy}")


def spark_home() -> Path:
    """Returns the Spark that pip put into `.venv`."""
    return next(VENV.glob("lib/python*/site-packages/pyspark"), VENV / "pyspark")


def fetch_iceberg(java: str) -> None:
    """Fetches Iceberg's jar with the Ivy inside Spark, and takes it only if it is the very jar we know."""
    mirror = os.environ.get("LIKENESS_MAVEN_REPOSITORY", "")
    say(f"fetching {JAR.name}, 48 MB")
    with tempfile.TemporaryDirectory(dir=VENV, prefix="ivy-") as folder:
        jar = Path(folder, JAR.name)
        problem = retrieve(java, mirror, folder)
        if jar.is_file():
            sound = hashlib.sha256(jar.read_bytes()).hexdigest() == JAR_SHA256
            problem = "" if sound else "its SHA-256 is not that of the release"
        if problem:
            source = re.sub(r"//[^/@]*@", "//", mirror) or "Maven's central repository"
            remedy = f"LIKENESS_JARS=/path/to/{JAR.name} or LIKENESS_MAVEN_REPOSITORY=URL of a mirror"
            refuse(f"cannot fetch {JAR.name} from {source}: {problem}; set {remedy}")
        JAR.parent.mkdir(exist_ok=True)
        jar.replace(JAR)


def retrieve(java: str, mirror: str, folder: str) -> str:
    """Lets Ivy put the jar into the folder; returns what was the matter, should the jar not be there."""
    ivy = next(spark_home().glob("jars/ivy-*.jar"), "ivy.jar")
    command = [java, *IVY_LIMITS, "-jar", str(ivy), "-dependency", *ICEBERG, "-notransitive"]
    command += ["-cache", folder, "-confs", "default", "-retrieve", f"{folder}/[artifact]-[revision].[ext]"]
    if mirror:
        resolver = f'<ibiblio name="mirror" m2compatible="true" root={quoteattr(mirror)}/>'
        settings = f'<settings defaultResolver="mirror"/><resolvers>{resolver}</resolvers>'
        Path(folder, "settings.xml").write_text(f"<ivysettings>{settings}</ivysettings>", encoding="utf-8")
        command += ["-settings", f"{folder}/settings.xml"]
    try:
        said = subprocess.run(command, stdout=PIPE, stderr=STDOUT, text=True, timeout=600, check=False).stdout
    except subprocess.TimeoutExpired:
        return "not done within 600 s"
    problem = re.search(r"\w+Exception: [^)\n]*|Host \S+ not found|Error: .*", said)
    return problem[0] if problem else "it does not hold the file"


def prepare(extras: set[str]) -> tuple[str, str, str]:
    """Returns the interpreter, its Spark and the jars to submit with, made where they are not there yet."""
    java, jars, given = find_java(), given_jars(), os.environ.get("LIKENESS_PYTHON")
    if given:
        return given_environment(given, jars)
    reason, held = inspect()
    if reason or not extras <= held or not (jars or JAR.is_file()):
        with (ROOT / ".venv.lock").open("w") as lock:  # the kernel frees it when its holders die
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                say("another start is making .venv; waiting for it")
                fcntl.flock(lock, fcntl.LOCK_EX)
            install(extras, lock.fileno())
            if not (jars or JAR.is_file()):
                fetch_iceberg(java)
    return str(PYTHON), str(spark_home()), jars or str(JAR)


def main() -> None:
    """Makes the environment, or ends with a line on why it cannot."""
    parser = argparse.ArgumentParser(description="Makes .venv, Iceberg's jar inside, unless it is there.")
    parser.add_argument("--extra", action="append", default=["all"], choices=["all", "dev"])
    parser.add_argument("--print", action="store_true", help="print the interpreter, its Spark and the jars")
    arguments = parser.parse_args()
    try:
        answer = prepare(set(arguments.extra))
    except OSError as error:
        refuse(f"cannot make {VENV}: {error}; make it writable, or set LIKENESS_PYTHON")
    except KeyboardInterrupt:
        say("stopped; the next start completes the installation")
        sys.exit(130)
    if arguments.print:
        print(*answer, sep="\n")


if __name__ == "__main__":
    if sys.version_info < (3, 11):  # noqa: UP036 - nothing else has looked yet
        refuse(f"needs Python 3.11 or newer, and {sys.executable} is {sys.version.split()[0]}; install one")
    main()
