"""The command line of spark-submit: options of the user, of this machine and of YARN."""

from pathlib import Path

import pytest

from likeness.core.errors import UsageError
from likeness.core.settings import Extract, load_settings
from likeness.spark.submit import yarn
from likeness.spark.submit.job_cli import read_flags
from likeness.spark.submit.options import Options, read_options
from likeness.spark.submit.submit import local_options


def confs(words: list[str]) -> dict[str, str]:
    return dict(words[n + 1].split("=", 1) for n, word in enumerate(words) if word == "--conf")


def test_other_options_are_passed_on() -> None:
    words = [
        "--master",
        "yarn",
        "--deploy-mode=cluster",
        "--num-executors",
        "8",
        "--conf",
        "a=b=c",
        "-c",
        "spark.x=1",
        "--queue",
        "q",
    ]
    options = read_options(words, {})
    assert (options.master, options.deploy_mode, options.cluster, options.local) == ("yarn", "cluster", True, False)
    assert options.confs == {"a": "b=c", "spark.x": "1"}
    assert options.rest == ["--num-executors", "8", "--queue", "q"]


def test_the_master_can_be_named_in_three_ways() -> None:
    assert read_options([], {}).master == "local[*,4]"
    assert read_options([], {"LIKENESS_MASTER": "yarn"}).master == "yarn"
    assert read_options(["--master", "local[2]"], {"LIKENESS_MASTER": "yarn"}).master == "local[2]"
    assert read_options(["--conf", "spark.master=yarn"], {}).master == "yarn"


def test_an_option_without_its_value_is_an_error() -> None:
    with pytest.raises(UsageError, match="--master needs a value"):
        read_options(["--queue", "q", "--master"], {})


def test_a_local_run_listens_on_this_machine_only() -> None:
    words = local_options(Options(jars=["mine.jar"], confs={"spark.ui.enabled": "true"}), "iceberg.jar", {})
    assert words[words.index("--jars") + 1] == "iceberg.jar,mine.jar"
    properties = confs(words)
    assert properties["spark.driver.host"] == properties["spark.driver.bindAddress"] == "127.0.0.1"
    assert properties["spark.ui.enabled"] == "true"  # the user's value overrides the default
    assert "SerialGC" in properties["spark.driver.extraJavaOptions"]
    own = {"spark.driver.extraJavaOptions": "-XX:+UseZGC"}
    assert confs(local_options(Options(confs=own), "iceberg.jar", {}))["spark.driver.extraJavaOptions"] == "-XX:+UseZGC"


def plan(options: Options, environment: dict[str, str] | None = None, *assignments: str) -> list[str]:
    settings = load_settings(None, {"root": "hdfs://name/root"}, assignments)
    return yarn.yarn_options(
        options, "/jars/iceberg.jar", settings, "20260102T000000-nightly-abcdef", environment or {}
    )


def test_a_remote_driver_gets_its_environment() -> None:
    secret_free = {"LIKENESS_GATES__MIN_RECALL": "0.9", "LIKENESS_JARS": "/here", "HOME": "/root"}
    properties = confs(plan(Options("yarn", "cluster"), secret_free))
    for where in ("spark.executorEnv", "spark.yarn.appMasterEnv"):
        assert properties[f"{where}.LIKENESS_GATES__MIN_RECALL"] == "0.9"
        assert f"{where}.LIKENESS_JARS" not in properties
        assert f"{where}.HOME" not in properties
        assert properties[f"{where}.PYSPARK_PYTHON"].startswith("/")
    assert properties["spark.yarn.appMasterEnv.LIKENESS_RUN_ID"] == "20260102T000000-nightly-abcdef"
    assert properties["spark.yarn.maxAppAttempts"] == "1"


def test_a_local_driver_finds_iceberg_without_an_upload() -> None:
    words = plan(Options("yarn"))
    assert confs(words)["spark.driver.extraClassPath"] == "/jars/iceberg.jar"
    assert "--jars" not in words


def test_a_packed_environment() -> None:
    words = plan(Options("yarn", "cluster"), {"LIKENESS_ARCHIVE": "hdfs:///envs/e.tar.gz"})
    assert words[words.index("--archives") + 1] == "hdfs:///envs/e.tar.gz#environment"
    assert confs(words)["spark.executorEnv.PYSPARK_PYTHON"] == "./environment/bin/python"


def test_flags_are_those_of_the_job(capsys: pytest.CaptureFixture[str]) -> None:
    """Flags of a remote driver are checked here before it starts."""
    settings = read_flags(
        "backfill", ["--space", "alexnet.fc6", "--from", "2026-01-02", "--category", "hat", "--root", "r"]
    )
    assert (settings.extract.space, settings.root) == ("alexnet.fc6", "r")
    assert read_flags("nightly", ["--date", "2026-01-02"]).date.isoformat() == "2026-01-02"
    for job, flags in (("nightly", ["--from", "2026-01-02"]), ("backfill", ["--from", "2026-13-02"])):
        with pytest.raises(SystemExit) as ended:
            read_flags(job, flags)
        assert ended.value.code == 2
        assert "--from" in capsys.readouterr().err


def test_gpus_are_requested_and_shared() -> None:
    assert yarn.gpu_confs(Extract()) == {}
    properties = confs(plan(Options("yarn"), None, "extract.gpus=2", "extract.tasks_per_gpu=4"))
    assert properties["spark.executor.resource.gpu.amount"] == "2"
    assert properties["spark.task.resource.gpu.amount"] == "0.25"
    assert properties["spark.executor.cores"] == "8"
    script = Path(properties["spark.files"])
    assert script.is_file()
    assert properties["spark.executor.resource.gpu.discoveryScript"] == f"./{script.name}"


@pytest.mark.parametrize("flags", [["--config", "conf/a.toml", "--date", "2026-01-02"], ["--config=conf/a.toml"]])
def test_the_configuration_is_shipped(flags: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    sent, options = yarn.ship_config(flags)
    assert sent[:2] == ["--config", "likeness.toml"]
    assert sent[2:] == flags[2:]
    assert options == ["--files", f"{tmp_path}/conf/a.toml#likeness.toml"]


def test_without_a_configuration_nothing_is_shipped() -> None:
    assert yarn.ship_config(["--root", "hdfs://name/root"]) == (["--root", "hdfs://name/root"], [])
