"""Hands a job to Spark's own spark-submit: program, flags and options in, its exit code out.

`spark-submit.sh` calls it with SPARK_HOME and LIKENESS_JARS set. What YARN needs beyond that is in
`likeness.spark.yarn`.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from likeness.errors import LikenessError, UsageError


@dataclass
class Options:
    """The user's options for spark-submit; only these few are looked at."""

    master: str = "local[*,4]"
    deploy_mode: str = "client"
    jars: list[str] = field(default_factory=list)
    confs: dict[str, str] = field(default_factory=dict)
    rest: list[str] = field(default_factory=list)

    @property
    def local(self) -> bool:
        """Whether everything runs in one process of this machine."""
        return self.master.startswith("local")

    @property
    def cluster(self) -> bool:
        """Whether the driver runs elsewhere."""
        return self.deploy_mode == "cluster"


def read_options(words: Sequence[str], environment: Mapping[str, str]) -> Options:
    """Reads what stands after `--`.

    Raises:
        UsageError: an option without its value.
    """
    options = Options(master=environment.get("LIKENESS_MASTER") or Options.master)
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in ("--master", "--deploy-mode", "--jars", "--conf", "-c"):
            options.rest.append(word)
            continue
        if not equals:
            if not remaining:
                raise UsageError(f"{name} wants a value")
            value = remaining.pop(0)
        if name == "--master":
            options.master = value
        elif name == "--deploy-mode":
            options.deploy_mode = value
        elif name == "--jars":
            options.jars += [value]
        else:
            key, _, set_to = value.partition("=")
            options.confs[key] = set_to
    options.master = options.confs.pop("spark.master", options.master)
    options.deploy_mode = options.confs.pop("spark.submit.deployMode", options.deploy_mode)
    return options


def local_options(options: Options, jars: str, environment: Mapping[str, str]) -> list[str]:
    """spark-submit's options for a run on this machine, or on a cluster that needs nothing special."""
    words = ["--master", options.master, "--deploy-mode", options.deploy_mode]
    words += ["--jars", ",".join([jars, *options.jars])]
    words += ["--driver-memory", environment.get("LIKENESS_DRIVER_MEMORY", "4g")]
    defaults: dict[str, str] = {}
    if options.local:
        defaults = {"spark.ui.enabled": "false"} | {f"spark.driver.{n}": "127.0.0.1" for n in ("bindAddress", "host")}
    return words + confs(defaults | options.confs) + options.rest


def confs(values: Mapping[str, str]) -> list[str]:
    """`--conf key=value` for each."""
    return [word for key, value in values.items() for word in ("--conf", f"{key}={value}")]


def main(arguments: Sequence[str]) -> int:
    """Submits `PROGRAM [flags] [-- options]`; returns the exit code, or becomes spark-submit."""
    program, *words = arguments
    place = words.index("--") if "--" in words else len(words)
    spark_submit, jars = str(Path(os.environ["SPARK_HOME"], "bin/spark-submit")), os.environ["LIKENESS_JARS"]
    try:
        flags, options = words[:place], read_options(words[place + 1 :], os.environ)
        if options.master == "yarn":
            from likeness.spark import yarn  # it imports Spark, which only costs time elsewhere

            return yarn.submit(spark_submit, jars, program, flags, options)
    except LikenessError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    if options.local:
        os.environ["SPARK_LOCAL_IP"] = "127.0.0.1"
    command = [spark_submit, *local_options(options, jars, os.environ), program, *flags]
    return os.execv(command[0], command)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
