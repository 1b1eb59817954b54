"""Options for spark-submit, which follow `--` on the command line of a job."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from likeness.core.errors import UsageError

LOCAL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""Options of a local JVM, which shares its cores with decoders and networks and mostly waits for them: one compiler, no
threads for garbage collection. A first pass over 6,000 photos takes it 5 s of CPU time instead of 12, a later one 2
instead of 4."""


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
    options = Options(master=environment.get("LIKENESS_MASTER") or Options.master)
    remaining = list(arguments)
    while remaining:
        word = remaining.pop(0)
        name, equals, value = word.partition("=")
        if name not in ("--master", "--deploy-mode", "--jars", "--conf", "-c"):
            options.rest.append(word)
            continue
        if not equals:
            if not remaining:
                raise UsageError(f"{name} needs a value")
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


def confs(values: Mapping[str, str]) -> list[str]:
    """The arguments `--conf key=value` for each."""
    return [word for key, value in values.items() for word in ("--conf", f"{key}={value}")]
