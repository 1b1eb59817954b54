"""Runs a job with Spark's spark-submit: program, flags and options in, its exit code out.

`spark-submit.sh` calls this module with SPARK_HOME and LIKENESS_JARS set. `likeness.spark.submit.yarn` adds the options
for YARN.
"""

import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from likeness.core.errors import LikenessError
from likeness.spark.submit.options import LOCAL_CONFS, Options, confs, read_options


def local_options(options: Options, jars: str, environment: Mapping[str, str]) -> list[str]:
    """spark-submit's options for a run on this machine, or on a cluster other than YARN."""
    words = ["--master", options.master, "--deploy-mode", options.deploy_mode]
    words += ["--jars", ",".join([jars, *options.jars])]
    words += ["--driver-memory", environment.get("LIKENESS_DRIVER_MEMORY", "4g")]
    return words + confs((LOCAL_CONFS if options.local else {}) | options.confs) + options.rest


def main(arguments: Sequence[str]) -> int:
    """Submits `PROGRAM [flags] [-- options]`; returns the exit code, or replaces this process by spark-submit."""
    program, *words = arguments
    place = words.index("--") if "--" in words else len(words)
    spark_submit, jars = str(Path(os.environ["SPARK_HOME"], "bin/spark-submit")), os.environ["LIKENESS_JARS"]
    try:
        flags, options = words[:place], read_options(words[place + 1 :], os.environ)
        if options.master == "yarn":
            from likeness.spark.submit import yarn  # imports Spark, which takes time

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
