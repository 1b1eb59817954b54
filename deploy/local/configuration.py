"""The configuration files of the local stack, for Hadoop and HBase, and launchers of their commands."""

from collections.abc import Callable, Mapping
from pathlib import Path
from xml.sax.saxutils import escape

Address = Callable[..., str]
_LOG = (
    "rootLogger.level = info\nrootLogger.appenderRef.o.ref = out\nappender.o.type = Console\n"
    "appender.o.name = out\nappender.o.layout.type = PatternLayout\n"
    "appender.o.layout.pattern = %d{ISO8601} %p %c{1}: %m%n\n"
)
_LOG4J = (
    "log4j.rootLogger=INFO,out\nlog4j.appender.out=org.apache.log4j.ConsoleAppender\n"
    "log4j.appender.out.layout=org.apache.log4j.PatternLayout\n"
    "log4j.appender.out.layout.ConversionPattern=%d{ISO8601} %p %c{1}: %m%n\n"
)
_QUEUES = {
    "yarn.scheduler.capacity.root.queues": "default",
    "yarn.scheduler.capacity.root.default.capacity": "100",
    "yarn.scheduler.capacity.maximum-am-resource-percent": "0.5",
}


def files(home: Path, at: Address, java: Callable[[str], list[str]]) -> dict[str, str]:
    """All files by their path below the stack's folder.

    `at(server, use)` is the address of a server's port, `java(home)` the command for classes of "hadoop" or "hbase".
    """
    return {
        "conf/hadoop/core-site.xml": _xml(_core(home, at)),
        "conf/hadoop/hdfs-site.xml": _xml(_hdfs(home, at)),
        "conf/hadoop/yarn-site.xml": _xml(_yarn(home, at)),
        "conf/hadoop/capacity-scheduler.xml": _xml(_QUEUES),
        "conf/hadoop/log4j.properties": _LOG4J,
        "conf/hadoop/webapps/hdfs/.here": "",  # the servers need these folders on their class path
        "conf/hadoop/webapps/datanode/.here": "",
        "conf/hbase/core-site.xml": _xml(_core(home, at)),
        "conf/hbase/hdfs-site.xml": _xml(_hdfs(home, at)),
        "conf/hbase/hbase-site.xml": _xml(_hbase(home, at)),
        "conf/hbase/zoo.cfg": "".join(f"{key}={value}\n" for key, value in _zookeeper(home, at).items()),
        "conf/hbase/log4j2.properties": _LOG,
        "conf/hbase/log4j.properties": _LOG4J,
        "bin/hdfs": _launcher(
            home,
            java("hadoop"),
            {"dfs": "org.apache.hadoop.fs.FsShell", "dfsadmin": "org.apache.hadoop.hdfs.tools.DFSAdmin"},
        ),
        "bin/yarn": _launcher(
            home, java("hadoop"), {"application": "org.apache.hadoop.yarn.client.cli.ApplicationCLI application"}
        ),
        "bin/hbase": _launcher(home, java("hbase"), {}),
        "tmp/.here": "",
        "data/.here": "",
    }


def _core(home: Path, at: Address) -> dict[str, str]:
    """core-site.xml."""
    return {
        "fs.defaultFS": f"hdfs://{at('namenode')}",
        "hadoop.tmp.dir": f"{home}/tmp",
        "ipc.client.connect.max.retries": "5",
        "hadoop.http.staticuser.user": "nobody",
    }


def _hdfs(home: Path, at: Address) -> dict[str, str]:
    """hdfs-site.xml."""
    return {
        "dfs.replication": "2",
        "dfs.namenode.name.dir": f"file://{home}/data/namenode",
        "dfs.namenode.rpc-bind-host": "127.0.0.1",
        "dfs.namenode.http-address": at("namenode", "http"),
        "dfs.namenode.https-address": "127.0.0.1:0",
        "dfs.namenode.safemode.extension": "0",
        "dfs.namenode.safemode.min.datanodes": "1",
        # a dead DataNode is noticed after 20 s instead of 10 min
        "dfs.heartbeat.interval": "1",
        "dfs.namenode.heartbeat.recheck-interval": "5000",
        "dfs.datanode.data.dir": f"file://{home}/data/${{likeness.server}}",
        "dfs.datanode.address": "127.0.0.1:${likeness.data}",
        "dfs.datanode.http.address": "127.0.0.1:${likeness.http}",
        "dfs.datanode.ipc.address": "127.0.0.1:${likeness.ipc}",
        "dfs.datanode.hostname": "127.0.0.1",
        "dfs.datanode.max.transfer.threads": "512",
        # otherwise closing a file sleeps 400 ms, since the client asks before the DataNode has reported
        "dfs.client.block.write.locateFollowingBlock.initial.delay.ms": "10",
    }


def _yarn(home: Path, at: Address) -> dict[str, str]:
    """yarn-site.xml."""
    return {
        "yarn.resourcemanager.hostname": "127.0.0.1",
        "yarn.resourcemanager.bind-host": "127.0.0.1",
        "yarn.resourcemanager.address": at("resourcemanager", "client"),
        "yarn.resourcemanager.scheduler.address": at("resourcemanager", "scheduler"),
        "yarn.resourcemanager.resource-tracker.address": at("resourcemanager", "tracker"),
        "yarn.resourcemanager.admin.address": at("resourcemanager", "admin"),
        "yarn.resourcemanager.webapp.address": at("resourcemanager", "http"),
        "yarn.nodemanager.hostname": "127.0.0.1",
        "yarn.nodemanager.bind-host": "127.0.0.1",
        "yarn.nodemanager.address": at("nodemanager", "rpc"),
        "yarn.nodemanager.localizer.address": at("nodemanager", "localizer"),
        "yarn.nodemanager.webapp.address": at("nodemanager", "http"),
        "yarn.nodemanager.collector-service.address": at("nodemanager", "collector"),
        "yarn.nodemanager.local-dirs": f"{home}/data/nodemanager",
        "yarn.nodemanager.log-dirs": f"{home}/logs/containers",
        "yarn.nodemanager.resource.memory-mb": "10240",
        "yarn.nodemanager.resource.cpu-vcores": "8",
        "yarn.nodemanager.vmem-check-enabled": "false",
        "yarn.nodemanager.disk-health-checker.max-disk-utilization-per-disk-percentage": "99",
        "yarn.scheduler.minimum-allocation-mb": "256",
    }


def _zookeeper(home: Path, at: Address) -> dict[str, str]:
    """zoo.cfg."""
    return {
        "tickTime": "2000",
        "dataDir": f"{home}/data/zookeeper",
        "clientPort": at("zookeeper").partition(":")[2],
        "clientPortAddress": "127.0.0.1",
        "admin.enableServer": "false",
        "maxClientCnxns": "100",
    }


def _hbase(home: Path, at: Address) -> dict[str, str]:
    """hbase-site.xml."""
    return {
        "hbase.cluster.distributed": "true",
        "hbase.rootdir": f"hdfs://{at('namenode')}/hbase",
        "hbase.tmp.dir": f"{home}/data/${{likeness.server}}",
        "hbase.zookeeper.quorum": "127.0.0.1",
        "hbase.zookeeper.property.clientPort": at("zookeeper").partition(":")[2],
        "zookeeper.session.timeout": "30000",
        "hbase.master.hostname": "127.0.0.1",
        "hbase.master.ipc.address": "127.0.0.1",
        "hbase.master.port": at("hmaster").partition(":")[2],
        "hbase.master.info.bindAddress": "127.0.0.1",
        "hbase.master.info.port": at("hmaster", "http").partition(":")[2],
        "hbase.unsafe.regionserver.hostname": "127.0.0.1",
        "hbase.regionserver.ipc.address": "127.0.0.1",
        "hbase.regionserver.port": "${likeness.rpc}",
        "hbase.regionserver.info.bindAddress": "127.0.0.1",
        "hbase.regionserver.info.port": "${likeness.http}",
        "hbase.regionserver.handler.count": "16",
        "hbase.wal.provider": "filesystem",
        "hbase.unsafe.stream.capability.enforce": "false",
        "hbase.hregion.memstore.flush.size": "33554432",  # flush and compact small tables too,
        "hbase.hregion.memstore.block.multiplier": "16",  # without blocking puts
        "hbase.hstore.blockingStoreFiles": "100",
        # how long a client waits while a region moves
        "hbase.client.operation.timeout": "60000",
        "hbase.rpc.timeout": "10000",
    }


def _xml(properties: Mapping[str, str]) -> str:
    rows = "".join(
        f"  <property><name>{escape(name)}</name><value>{escape(value)}</value></property>\n"
        for name, value in properties.items()
    )
    return f'<?xml version="1.0"?>\n<configuration>\n{rows}</configuration>\n'


def _launcher(home: Path, java: list[str], commands: Mapping[str, str]) -> str:
    """A shell script like Hadoop's: its first argument is a command, or the name of a class."""
    cases = "".join(f'  {name}) shift; set -- {main} "$@" ;;\n' for name, main in commands.items())
    words = " ".join(f"'{word}'" for word in java)
    return (
        f"#!/bin/sh\nexport HADOOP_CONF_DIR='{home}/conf/hadoop'\n"
        f'case "${{1:-}}" in\n{cases}esac\nexec {words} -Xmx256m -Dlikeness.server=client "$@"\n'
    )
