"""A Hadoop stack on this machine, without root and without Docker: HDFS, YARN, ZooKeeper, HBase, Thrift.

Each server is a process that runs Maven artifacts and listens on 127.0.0.1. All files are below one folder
(LIKENESS_STACK, default var/stack); ports count up from LIKENESS_STACK_PORT (default 19800). The script needs only the
standard library, Java 17 and mvn.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import configuration

HERE = Path(__file__).resolve().parent
DATANODES, REGIONSERVERS, THRIFTS = 3, 2, 2
READY_S = 120
_OPENS = "lang lang.reflect io net nio util util.concurrent"
JAVA_OPTIONS = [
    *(f"--add-opens=java.base/java.{name}=ALL-UNNAMED" for name in _OPENS.split()),
    "--add-opens=java.base/sun.nio.ch=ALL-UNNAMED",
    "--add-opens=java.base/jdk.internal.ref=ALL-UNNAMED",
    "--add-exports=java.base/jdk.internal.misc=ALL-UNNAMED",
    "--add-exports=java.security.jgss/sun.security.krb5=ALL-UNNAMED",
    "-XX:+UseSerialGC",  # a dozen small servers share few cores
    "-XX:TieredStopAtLevel=1",
    "-Djava.net.preferIPv4Stack=true",
]


class StackError(Exception):
    """An error of the stack, with its remedy."""


@dataclass(frozen=True)
class Server:
    """One server: its class, its ports (offsets from the base port; the first must answer) and its memory."""

    name: str
    home: str
    main: str
    ports: Mapping[str, int]
    heap_mb: int
    arguments: Sequence[str] = ()
    step: int = 0
    properties: Mapping[str, str] = field(default_factory=dict)


_HDFS, _YARN, _HBASE = "org.apache.hadoop.hdfs.server", "org.apache.hadoop.yarn.server", "org.apache.hadoop.hbase"
SERVERS = (
    Server("namenode", "hadoop", f"{_HDFS}.namenode.NameNode", {"rpc": 0, "http": 1}, 256),
    *(
        Server(
            f"datanode{n}",
            "hadoop",
            f"{_HDFS}.datanode.DataNode",
            {"data": 10 * n, "http": 10 * n + 1, "ipc": 10 * n + 2},
            192,
        )
        for n in range(1, DATANODES + 1)
    ),
    Server(
        "resourcemanager",
        "hadoop",
        f"{_YARN}.resourcemanager.ResourceManager",
        {"client": 50, "scheduler": 51, "tracker": 52, "admin": 53, "http": 54},
        320,
    ),
    Server(
        "nodemanager",
        "hadoop",
        f"{_YARN}.nodemanager.NodeManager",
        {"rpc": 60, "localizer": 61, "http": 62, "collector": 63},
        256,
        step=1,
    ),
    Server("zookeeper", "hbase", "org.apache.zookeeper.server.quorum.QuorumPeerMain", {"client": 70}, 128, ["zoo.cfg"]),
    Server("hmaster", "hbase", f"{_HBASE}.master.HMaster", {"rpc": 71, "http": 72}, 320, ["start"], step=1),
    *(
        Server(
            f"regionserver{n}",
            "hbase",
            f"{_HBASE}.regionserver.HRegionServer",
            {"rpc": 71 + 2 * n, "http": 72 + 2 * n},
            768,
            ["start"],
            step=1,
        )
        for n in range(1, REGIONSERVERS + 1)
    ),
    *(
        Server(
            f"thrift{n}",
            "hbase",
            f"{_HBASE}.thrift.ThriftServer",
            {"thrift": 79 + n},
            384,
            ["start", "-b", "127.0.0.1", "--infoport", "-1", "-p", "{thrift}"],
            step=2,
        )
        for n in range(1, THRIFTS + 1)
    ),
)
BY_NAME = {server.name: server for server in SERVERS}


class Stack:
    """The servers of one folder; `up`, `down` and `status` can be repeated."""

    def __init__(self, home: Path, port: int, jars: Path | None = None) -> None:
        self.home, self.port = home.absolute(), port
        self.jars = (jars or home / "jars").absolute()
        self._children: list[subprocess.Popen[bytes]] = []

    def address(self, server: str, use: str = "") -> str:
        """`127.0.0.1:port` of a server, by default its first port."""
        ports = BY_NAME[server].ports
        return f"127.0.0.1:{self.port + (ports[use] if use else next(iter(ports.values())))}"

    @property
    def hdfs(self) -> str:
        """`hdfs://host:port`."""
        return f"hdfs://{self.address('namenode')}"

    @property
    def hbase(self) -> str:
        """`hbase://host:port,host:port` of the Thrift servers."""
        return "hbase://" + ",".join(self.address(s.name) for s in SERVERS if s.name.startswith("thrift"))

    def up(self) -> None:
        """Starts the servers that are not running, and waits until all are ready.

        Raises:
            StackError: there is no Java or mvn, a port is in use, or a server dies or does not get ready.
        """
        _needs("java", "openjdk-17-jre-headless")
        self._only_one_base()
        missing = [server for server in SERVERS if not self.pid(server.name)]
        for server in missing:
            self._check_ports(server)
        self._fetch()
        _write_all(self.home, configuration.files(self.home, self.address, self.java))
        if missing and not (self.home / "data/namenode/current/VERSION").exists():
            self._format()
        for step in sorted({server.step for server in SERVERS}):
            starting = [server for server in SERVERS if server.step == step]
            for server in starting:
                if server in missing:
                    self.start(server.name)
            for server in starting:
                self._wait_port(server)
        self._wait("HDFS", self._hdfs_ready)
        self._wait("YARN", self._yarn_ready)
        self._wait("HBase", self._hbase_ready)

    def down(self) -> None:
        """Stops all servers and containers; keeps the data."""
        names = [server.name for server in reversed(SERVERS)]
        order = ["nodemanager", *(name for name in names if name != "nodemanager")]  # it ends its containers
        for name in order:
            self.stop(name)
        for pid in self._strays():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        while self._children:
            self._children.pop().wait()

    def start(self, name: str) -> None:
        """Starts one server, without waiting for it."""
        server = BY_NAME[name]
        command = [*self.java(server.home), f"-Xmx{server.heap_mb}m", f"-Dlikeness.server={name}"]
        command += [f"-Dlikeness.{use}={self.port + offset}" for use, offset in server.ports.items()]
        command += [f"-Dhadoop.log.file={name}.log", server.main]
        uses = {use: str(self.port + offset) for use, offset in server.ports.items()}
        command += [
            str(self.home / "conf/hbase" / a) if a.endswith(".cfg") else a.format(**uses) for a in server.arguments
        ]
        log = self.home / "logs" / f"{name}.out"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("ab") as out:
            begins = out.tell()
            process = subprocess.Popen(
                command,
                cwd=self.home,
                env=self.environment(),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children.append(process)
        record = self._record(name)
        record.parent.mkdir(parents=True, exist_ok=True)
        record.write_text(
            json.dumps({"pid": process.pid, "born": _born(process.pid), "port": self.port, "log": begins})
        )

    def stop(self, name: str, kill: bool = False) -> None:
        """Stops one server with SIGTERM, after ten seconds with SIGKILL; with `kill` at once."""
        pid = self.pid(name)
        if pid:
            deadline = time.monotonic() + (0 if kill else 10)
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL if kill else signal.SIGTERM)
            while self.pid(name):
                if time.monotonic() > deadline:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, signal.SIGKILL)
                time.sleep(0.05)
        self._record(name).unlink(missing_ok=True)

    def pid(self, name: str) -> int | None:
        """The process of a server; None if it is not running."""
        record = self._recorded(name)
        born = _born(record["pid"]) if record else None
        return record["pid"] if born and born == record["born"] else None

    def status(self) -> list[tuple[str, str, str, str]]:
        """(server, state, process, ports). The state is up, starting (no answer yet), dead (should run) or down."""
        rows = []
        for server in SERVERS:
            pid = self.pid(server.name)
            if pid:
                state = "up" if _answers(self._first_port(server)) else "starting"
            else:
                state = "dead" if self._record(server.name).exists() else "down"
            addresses = ", ".join(f"{use} {self.port + offset}" for use, offset in server.ports.items())
            rows.append((server.name, state, str(pid or ""), addresses))
        return rows

    def environment(self) -> dict[str, str]:
        """The environment of a server or client of this stack."""
        return {
            **os.environ,
            "HADOOP_CONF_DIR": str(self.home / "conf/hadoop"),
            "YARN_CONF_DIR": str(self.home / "conf/hadoop"),
            "HBASE_CONF_DIR": str(self.home / "conf/hbase"),
        }

    def java(self, home: str) -> list[str]:
        """The command that runs a class of Hadoop or HBase; the class comes last."""
        logs = self.home / "logs"
        return [
            *[_java(), *JAVA_OPTIONS, "-cp", f"{self.home}/conf/{home}:{self.jars}/{home}/*"],
            *(f"-D{name}.log.dir={logs}" for name in ("hadoop", "yarn", "hbase")),
            # all servers share the configuration; ports that a server does not set need a default
            *(f"-Dlikeness.{use}=0" for use in ("data", "http", "ipc", "rpc")),
            f"-Djava.io.tmpdir={self.home}/tmp",
        ]

    def _first_port(self, server: Server) -> int:
        return self.port + next(iter(server.ports.values()))

    def _record(self, name: str) -> Path:
        return self.home / "run" / f"{name}.json"

    def _recorded(self, name: str) -> dict[str, Any]:
        """The record of a server's start; empty if the server should not run."""
        try:
            record: dict[str, Any] = json.loads(self._record(name).read_text())
        except (OSError, ValueError):
            return {}
        return record

    def _only_one_base(self) -> None:
        for path in (self.home / "run").glob("*.json"):
            port = json.loads(path.read_text()).get("port")
            if port != self.port and self.pid(path.stem):
                raise StackError(
                    f"{self.home} runs on ports from {port}; run `make stack-down`, or set LIKENESS_STACK_PORT={port}"
                )

    def _check_ports(self, server: Server) -> None:
        for use, offset in server.ports.items():
            if _answers(self.port + offset) or not _free(self.port + offset):
                raise StackError(
                    f"port {self.port + offset} ({server.name}, {use}) is in use by another process; "
                    "end that process, or set LIKENESS_STACK_PORT to other ports"
                )

    def _fetch(self) -> None:
        """Downloads each class path with Maven once; the stamp is written last, when it is complete."""
        for home in ("hadoop", "hbase"):
            pom, folder = HERE / home / "pom.xml", self.jars / home
            stamp, digest = folder / "stamp", hashlib.sha256(pom.read_bytes()).hexdigest()
            if stamp.exists() and stamp.read_text() == digest:
                continue
            _needs("mvn", "maven")
            print(f"fetching {home} with Maven", file=sys.stderr, flush=True)
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(parents=True)
            goal = ["dependency:copy-dependencies", f"-DoutputDirectory={folder}", "-DincludeScope=runtime"]
            done = subprocess.run(
                ["mvn", "-q", "-B", "-f", str(pom), *goal], capture_output=True, text=True, check=False
            )
            if done.returncode:
                lines = (done.stdout + done.stderr).strip().splitlines()[:5]
                raise StackError(f"mvn cannot fetch {home}: {' '.join(lines)}; is a Maven repository reachable?")
            stamp.write_text(digest)

    def _format(self) -> None:
        command = [*self.java("hadoop"), BY_NAME["namenode"].main, "-format", "-nonInteractive", "-force"]
        done = subprocess.run(
            command, cwd=self.home, env=self.environment(), capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise StackError(f"the NameNode cannot be formatted: {(done.stdout + done.stderr).strip()[-500:]}")

    def _wait_port(self, server: Server) -> None:
        deadline = time.monotonic() + READY_S
        while not _answers(self._first_port(server)):
            if not self.pid(server.name):
                raise StackError(f"{server.name} died at its start{self._why(server.name)}")
            if time.monotonic() > deadline:
                raise StackError(
                    f"{server.name} does not answer on port {self._first_port(server)} after {READY_S} s"
                    f"{self._why(server.name)}"
                )
            time.sleep(0.2)

    def _wait(self, what: str, ready: Callable[[], str]) -> None:
        deadline = time.monotonic() + READY_S
        while problem := ready():
            ended = [server.name for server in SERVERS if not self.pid(server.name)]
            if ended:
                raise StackError(f"{ended[0]} died{self._why(ended[0])}")
            if time.monotonic() > deadline:
                raise StackError(f"{what} is not ready after {READY_S} s: {problem}; see {self.home}/logs")
            time.sleep(0.5)

    def _hdfs_ready(self) -> str:
        beans = _jmx(self.address("namenode", "http"), "Hadoop:service=NameNode,name=FSNamesystem*")
        live = next((int(bean["NumLiveDataNodes"]) for bean in beans if "NumLiveDataNodes" in bean), 0)
        if live < DATANODES:
            return f"{live} of {DATANODES} DataNodes have reported"
        info = _jmx(self.address("namenode", "http"), "Hadoop:service=NameNode,name=NameNodeInfo")
        return str(info[0].get("Safemode", "")) if info else "the NameNode does not answer"

    def _yarn_ready(self) -> str:
        try:
            with urllib.request.urlopen(
                f"http://{self.address('resourcemanager', 'http')}/ws/v1/cluster/metrics", timeout=5
            ) as response:
                nodes = int(json.load(response)["clusterMetrics"]["activeNodes"])
        except (OSError, ValueError, KeyError):
            return "the ResourceManager does not answer"
        return "" if nodes else "the NodeManager has not reported"

    def _hbase_ready(self) -> str:
        beans = _jmx(self.address("hmaster", "http"), "Hadoop:service=HBase,name=Master,sub=Server")
        if not beans:
            return "the master does not answer"
        if beans[0].get("tag.isActiveMaster") != "true":
            return "the master is not active yet"
        live = int(beans[0].get("numRegionServers", 0))
        return "" if live >= REGIONSERVERS else f"{live} of {REGIONSERVERS} RegionServers have reported"

    def _why(self, name: str) -> str:
        """The last error in a server's log, or the cause of its abort, with the path of the log."""
        log = self.home / "logs" / f"{name}.out"
        begins = self._recorded(name).get("log", 0)  # earlier lines are of earlier processes
        lines = log.read_bytes()[begins:].decode(errors="replace").splitlines() if log.exists() else []
        errors = [n for n, line in enumerate(lines) if "ERROR" in line or "FATAL" in line or "Exception" in line]
        aborts = [n for n in errors if "ABORTING" in lines[n]]
        if aborts:  # the last errors come from the shutdown, the cause follows this line
            causes = [line for line in lines[aborts[-1] + 1 :][:100] if line.startswith(("java", "org", "Caused by"))]
            reason = " ".join([lines[aborts[-1]], *causes[:1], *causes[1:][-1:]])
        else:
            reason = lines[errors[-1]] if errors else ""
        return f" ({reason.strip()[:800]})" * bool(reason) + f"; see {log}"

    def _strays(self) -> Iterator[int]:
        """Processes in this stack's folder: containers whose NodeManager was killed."""
        for entry in Path("/proc").glob("[0-9]*"):
            with contextlib.suppress(OSError):
                folder = (entry / "cwd").readlink()
                if folder.is_relative_to(self.home / "data") and int(entry.name) != os.getpid():
                    yield int(entry.name)


def _write_all(home: Path, files: Mapping[str, str]) -> None:
    for name, content in files.items():
        path = home / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
        if name.startswith("bin/"):
            path.chmod(0o755)


def _java() -> str:
    home = os.environ.get("JAVA_HOME")
    return f"{home}/bin/java" if home else "java"


def _needs(program: str, package: str) -> None:
    if not shutil.which(_java() if program == "java" else program):
        raise StackError(f"needs {program}, which is not on PATH; install {package} (Debian, Ubuntu)")


def _answers(port: int) -> bool:
    with socket.socket() as probe:
        probe.settimeout(2)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _jmx(address: str, query: str) -> list[dict[str, Any]]:
    try:
        with urllib.request.urlopen(f"http://{address}/jmx?qry={query}", timeout=5) as response:
            beans: list[dict[str, Any]] = json.load(response)["beans"]
            return beans
    except (OSError, ValueError, KeyError):
        return []


def _born(pid: int) -> str | None:
    """Start time of a process, which tells it from a later one with the same id; None if there is none."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text(errors="replace").rpartition(")")[2].split()
    except OSError:
        return None
    zombie = fields[0] == "Z" and int(fields[17]) == 1  # with more threads, a killed process still holds its ports
    return None if zombie else fields[19]


def configured_stack() -> Stack:
    """The stack of LIKENESS_STACK and LIKENESS_STACK_PORT."""
    home = Path(os.environ.get("LIKENESS_STACK") or HERE.parent.parent / "var/stack")
    text = os.environ.get("LIKENESS_STACK_PORT") or "19800"
    if not text.isdigit() or not 1024 <= int(text) <= 65_000:
        raise StackError(f"LIKENESS_STACK_PORT={text!r} is not a port from 1024 to 65000")
    return Stack(home, int(text))


def main() -> int:
    """Runs one command; exit code 1 if it fails, or if a server is dead."""
    parser = argparse.ArgumentParser(description="HDFS, YARN and HBase on this machine.")
    parser.add_argument("command", choices=["up", "down", "status", "env"])
    command = parser.parse_args().command
    try:
        stack = configured_stack()
        if command == "up":
            begun = time.monotonic()
            stack.up()
            print(f"up after {time.monotonic() - begun:.0f} s: {stack.hdfs}, {stack.hbase}")
            print('try it: eval "$(make -s stack-env)" && hdfs dfs -ls /')
        elif command == "down":
            stack.down()
            print("down; data and logs are kept in", stack.home)
        elif command == "env":
            print(f"export HADOOP_CONF_DIR='{stack.home}/conf/hadoop' PATH='{stack.home}/bin':\"$PATH\"")
        else:
            rows = stack.status()
            for name, state, pid, addresses in rows:
                print(f"{name:<16} {state:<9} {pid:>8}  {addresses}")
            return int(any(state == "dead" for _, state, *_ in rows))
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
