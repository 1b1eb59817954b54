"""What stands after `--` of a job's command: words for spark-submit in, the few that are looked at out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from likeness.core.errors import UsageError

LOCAL_JVM = "-XX:TieredStopAtLevel=1 -XX:+UseSerialGC"
"""For a JVM that shares its cores with decoders and networks, and mostly waits for them: no second compiler, no threads
that collect garbage. A first pass over 6,000 photos costs it 5 s of processor time, not 12, a later one 2, not 4."""


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


def confs(values: Mapping[str, str]) -> list[str]:
    """`--conf key=value` for each."""
    return [word for key, value in values.items() for word in ("--conf", f"{key}={value}")]
