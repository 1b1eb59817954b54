"""Example of the nightly run as an Airflow DAG (Airflow 2 or 3). Its syntax is tested; it is not run under Airflow.

A gate (exit code 3) fails the task without a retry, since a person has to decide. After any other error the task is
retried, which completes the work of the first try.
"""

from datetime import datetime, timedelta

from airflow.decorators import dag, task
from airflow.exceptions import AirflowFailException

HOME, CONFIG = "/opt/likeness", "/etc/likeness.toml"
GATE = 3


@dag(
    dag_id="likeness_nightly",
    schedule="15 2 * * *",
    start_date=datetime(2026, 1, 1),
    catchup=False,
    max_active_runs=1,
    default_args={"retries": 2, "retry_delay": timedelta(minutes=10)},
)
def likeness_nightly() -> None:
    """Index the day's photos, then check the build in service."""

    @task
    def nightly(day: str = "{{ ds }}") -> None:
        """Ingest, extract, load, index, audit, publish."""
        import subprocess

        command = ["./spark-submit.sh", "nightly", "--config", CONFIG, "--date", day]
        done = subprocess.run([*command, "--", "--master", "yarn", "--deploy-mode", "cluster"], cwd=HOME, check=False)
        if done.returncode == GATE:
            raise AirflowFailException("refused by a gate; `likeness runs show last` says why")
        done.check_returncode()

    @task
    def verify() -> None:
        """Compare the build in service with tables and keyed store."""
        import subprocess

        subprocess.run([".venv/bin/likeness", "verify", "--config", CONFIG], cwd=HOME, check=True)

    nightly() >> verify()


likeness_nightly()
