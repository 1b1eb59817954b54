"""Options for spark-submit, which follow `--` on the command line of a job."""

import argparse
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from likeness.core.errors import UsageError

LOCAL_CONFS = {
    "spark.ui.enabled": "false",
    # with one compiler a JVM has 48 MB for code, which a long run fills; nothing is compiled from then on
    "spark.driver.extraJavaOptions": "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC -XX:ReservedCodeCacheSize=256m",
    "spark.driver.host": "127.0.0.1",
    "spark.driver.bindAddress": "127.0.0.1",
}
"""Spark properties of a run on this machine, which listens on it only.

Its JVM shares its cores with decoders and networks and mostly waits for them: one compiler, no threads for garbage
collection. A first pass over 6,000 photos takes it 5 s of CPU time instead of 12, a later one 2 instead of 4.
"""


@dataclass
class Options:
    """The user's options for spark-submit. `rest` holds those that are passed on as they are."""

    master: str = "local[*,4]"
    deploy_mode: str = "client"
    jars: list[str] = field(default_factory=list)
    confs: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    @property
    def local(self) -> bool:
        """Whether Spark runs in one process of this machine."""
        return self.master.startswith("local")

    @property
    def cluster(self) -> bool:
        """Whether the driver runs on a machine of the cluster."""
        return self.deploy_mode == "cluster"


def read_options(arguments: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Parses the options that follow `--`.

    Raises:
        UsageError: an option without its value.
    """
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--master", default=environment.get("LIKENESS_MASTER") or Options.master)
    parser.add_argument("--deploy-mode", default=Options.deploy_mode)
    parser.add_argument("--jars", action="append", default=[])
    parser.add_argument("--conf", "-c", action="append", default=[])
    try:
        values, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:
        raise UsageError(f"{error.argument_name} needs a value") from None
    properties = {key: value for key, _, value in (text.partition("=") for text in values.conf)}
    master = properties.pop("spark.master", values.master)
    deploy_mode = properties.pop("spark.submit.deployMode", values.deploy_mode)
    return Options(master, deploy_mode, values.jars, properties, rest)


def confs(values: Mapping[str, str]) -> list[str]:
    """The arguments `--conf key=value` for each."""
    return [word for key, value in values.items() for word in ("--conf", f"{key}={value}")]
