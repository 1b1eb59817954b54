"""Leases: one holder at a time, whatever ended the last one."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from likeness.core.errors import ServiceError, UsageError
from likeness.storage import leases
from likeness.storage.leases import EXPIRY_S, Lease, LeaseRecord, held_leases, release

WHO = {"run_id": "run-1", "job": "nightly", "started": "2026-01-02T00:00:00+00:00"}


def lease(root: Path, run_id: str = "run-1", name: str = "ingest") -> Lease:
    return Lease(str(root), name, {**WHO, "run_id": run_id})


def files(root: Path) -> list[str]:
    return sorted(path.name for path in (root / "leases").iterdir() if not path.name.startswith("."))


def state(root: Path) -> dict[str, Any]:
    """What the youngest file says."""
    youngest = max(files(root), key=lambda name: int(name.split(".")[-2]))
    return json.loads((root / "leases" / youngest).read_text())


def alter(root: Path, **more: object) -> None:
    """As if another had written the youngest file."""
    youngest = max(files(root), key=lambda name: int(name.split(".")[-2]))
    (root / "leases" / youngest).write_text(json.dumps({**state(root), **more}))


HOLD = """
import os, sys, time
from likeness.storage.leases import Lease
with Lease(sys.argv[1], "ingest", {"run_id": sys.argv[2], "job": "nightly", "started": "then"}):
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator["subprocess.Popen[str]"]:
    """Another process that holds the lease."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, tmp_path, "run-of-another"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.communicate()


def test_a_live_holder_is_left_alone(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with pytest.raises(ServiceError) as caught, lease(tmp_path):
        pass
    message = str(caught.value)
    assert "run-of-another" in message
    assert f"process {holder.pid} on {socket.gethostname()}" in message
    assert "wait for it to end, or stop it" in message
    assert len(files(tmp_path)) == 1


def test_the_same_process_cannot_take_it_twice(tmp_path: Path) -> None:
    with lease(tmp_path), pytest.raises(ServiceError, match=f"process {os.getpid()}"), lease(tmp_path, "run-2"):
        pass


def test_what_was_given_back_is_free(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.communicate("\n")
    assert state(tmp_path)["state"] == "released"
    with lease(tmp_path) as mine:
        assert mine.replaced is None
        mine.check()
        assert state(tmp_path)["run_id"] == "run-1"
    with lease(tmp_path, "run-2"):
        pass


def test_an_error_gives_it_back(tmp_path: Path) -> None:
    with pytest.raises(KeyError), lease(tmp_path):
        raise KeyError
    assert state(tmp_path)["state"] == "released"


@pytest.mark.parametrize("reaped", [True, False], ids=["gone", "zombie"])
def test_a_killed_holder_is_replaced_at_once(tmp_path: Path, holder: "subprocess.Popen[str]", reaped: bool) -> None:
    holder.kill()
    if reaped:
        holder.wait()
    else:  # nobody has asked for its exit code: the number is still taken
        stat = Path(f"/proc/{holder.pid}/stat")
        while " Z " not in stat.read_text():
            time.sleep(0.01)
    begun = time.perf_counter()
    with lease(tmp_path) as mine:
        assert mine.replaced is not None
        assert (mine.replaced.run_id, mine.replaced.pid) == ("run-of-another", holder.pid)
        mine.check()
    assert time.perf_counter() - begun < 1
    with lease(tmp_path) as mine:
        assert mine.replaced is None


def test_a_younger_process_of_the_same_number_is_not_the_holder(tmp_path: Path) -> None:
    with lease(tmp_path):
        pass
    alter(tmp_path, state="held", pid=os.getpid(), born="1")  # this process was not born with the machine
    with lease(tmp_path) as mine:
        assert mine.replaced is not None


@pytest.mark.parametrize(("age", "free"), [(0, False), (EXPIRY_S - 10, False), (EXPIRY_S + 1, True)])
def test_a_holder_on_another_machine_counts_by_its_heartbeat(tmp_path: Path, age: float, free: bool) -> None:
    with lease(tmp_path, "far-away"):
        pass
    alter(tmp_path, state="held", host="another-machine", beat=time.time() - age)
    if free:
        with lease(tmp_path) as mine:
            assert mine.replaced is not None
            assert mine.replaced.run_id == "far-away"
    else:
        with pytest.raises(ServiceError, match=r"far-away .*another-machine"), lease(tmp_path):
            pass


def test_a_heartbeat_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    with lease(tmp_path) as mine:
        first = state(tmp_path)["beat"]
        deadline = time.monotonic() + 10
        while state(tmp_path)["beat"] == first and time.monotonic() < deadline:
            time.sleep(0.01)
        assert state(tmp_path)["beat"] > first
        assert state(tmp_path)["state"] == "held"
        mine.check()


def test_check_tells_that_another_has_taken_over(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(leases, "HEARTBEAT_S", 0.02)
    with lease(tmp_path, "slow") as mine:
        mine.check()
        # the machine slept: its heartbeat is old, and another machine's run takes the lease
        monkeypatch.setattr(LeaseRecord, "is_alive", lambda holder: False)
        with lease(tmp_path, "other") as taken:
            assert taken.replaced is not None
            assert taken.replaced.run_id == "slow"
            with pytest.raises(ServiceError, match="taken over by another run"):
                mine.check()
            time.sleep(0.1)  # the loser's heartbeat must not touch what the other holds
            assert state(tmp_path)["run_id"] == "other"
            taken.check()
        with pytest.raises(ServiceError, match="taken over"):
            mine.check()
    assert (state(tmp_path)["run_id"], state(tmp_path)["state"]) == ("other", "released")


def test_names_are_kept_apart(tmp_path: Path) -> None:
    names = ["ingest", "extract-alexnet.fc6@1f3a9c02", "extract-alexnet.fc6", "extract-alexnet"]
    with lease(tmp_path, name=names[0]), lease(tmp_path, name=names[1]), lease(tmp_path, name=names[2]):
        with lease(tmp_path, name=names[3]) as last:
            last.check()
        with pytest.raises(ServiceError, match=r"extract-alexnet\.fc6@1f3a9c02"), lease(tmp_path, name=names[1]):
            pass


def test_old_generations_are_cleared_away(tmp_path: Path) -> None:
    for number in range(12):
        with lease(tmp_path, f"run-{number}"):
            pass
    assert files(tmp_path) == ["ingest.12.json"]


def test_other_files_in_the_folder_are_no_leases(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    for name in ("ingest.x.json", "ingest.1.json.bak", "ingest.-1.json", "README", "ingest.json"):
        (tmp_path / "leases" / name).write_text("?")
    with lease(tmp_path) as mine:
        mine.check()
    assert "ingest.1.json" in files(tmp_path)


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"state": "held"}'])
def test_a_damaged_lease_is_a_named_error(tmp_path: Path, content: str) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "ingest.3.json").write_text(content)
    with pytest.raises(ServiceError, match=r"ingest\.3\.json is damaged.*delete it"), lease(tmp_path):
        pass


def test_a_root_that_cannot_be_written_is_a_named_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(ServiceError, match="name a root that can be written") as caught,
        lease(tmp_path / "file" / "root"),
    ):
        pass
    assert f"{tmp_path}/file/root" in str(caught.value)


def test_a_lease_that_cannot_be_given_back_does_not_hide_how_the_run_ended(tmp_path: Path) -> None:
    def work() -> None:
        with lease(tmp_path / "root"):
            (tmp_path / "root" / "leases" / "ingest.1.json").unlink()
            (tmp_path / "root" / "leases" / "ingest.1.json").mkdir()
            raise KeyError

    with pytest.raises(KeyError):
        work()


RACE = """
import os, sys, time
from likeness.core.errors import ServiceError, UsageError
from likeness.storage.leases import Lease
me, root = sys.argv[1:]
print("ready", flush=True)
for line in sys.stdin:
    number = line.strip()
    try:
        with Lease(f"{root}/{number}", "ingest", {"run_id": me, "job": "j", "started": "s"}) as lease:
            guard = os.open(f"{root}/{number}/held", os.O_CREAT | os.O_EXCL)  # fails if another holds it too
            time.sleep(0.02)
            lease.check()
            os.close(guard)
            os.unlink(f"{root}/{number}/held")
            print("held", flush=True)
            sys.stdin.readline()
    except ServiceError:
        print("refused", flush=True)
        sys.stdin.readline()
"""


def test_of_many_processes_exactly_one_holds(tmp_path: Path) -> None:
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", RACE, str(me), tmp_path], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for me in range(5)
    ]

    def tell(text: str) -> None:
        for process in processes:
            assert process.stdin
            process.stdin.write(text)
            process.stdin.flush()

    def hear() -> list[str]:
        return [process.stdout.readline().strip() for process in processes if process.stdout]

    assert hear() == ["ready"] * 5
    for round_ in range(20):
        if round_ % 2:  # a holder was killed before: all of them see that it is dead
            with lease(tmp_path / str(round_), "dead"):
                pass
            alter(tmp_path / str(round_), state="held", born="1")
        tell(f"{round_}\n")
        assert sorted(hear()) == ["held"] + ["refused"] * 4, f"round {round_}"
        tell("\n")
    for process in processes:
        process.communicate()
        assert process.returncode == 0


# -- looking at the leases of others, and releasing them


def test_who_holds_what_is_told(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    with lease(tmp_path, "mine", "extract-alexnet.fc6@1f3a9c02"), lease(tmp_path, "given back", "load-x"):
        pass
    with lease(tmp_path, "mine", "extract-alexnet.fc6@1f3a9c02"):
        mine, other = held_leases(str(tmp_path))
    assert (mine.name, mine.run_id, mine.state) == ("extract-alexnet.fc6@1f3a9c02", "mine", "alive")
    assert (mine.job, mine.started, mine.pid) == (WHO["job"], WHO["started"], os.getpid())
    assert (other.name, other.run_id, other.state, other.pid) == ("ingest", "run-of-another", "alive", holder.pid)
    assert other.host == socket.gethostname()
    assert other.beat_age_s is not None
    assert 0 <= other.beat_age_s < 60
    holder.kill()
    holder.wait()
    assert [(one.name, one.state) for one in held_leases(str(tmp_path))] == [("ingest", "dead")]
    assert held_leases(str(tmp_path / "no root")) == []


def test_the_lease_of_a_dead_run_is_released(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    holder.kill()
    holder.wait()
    assert release(str(tmp_path), "ingest").run_id == "run-of-another"
    assert held_leases(str(tmp_path)) == []
    assert files(tmp_path) == ["ingest.2.json"]
    with lease(tmp_path) as mine:  # which still gives the dead run its row
        assert mine.replaced is not None
        assert mine.replaced.run_id == "run-of-another"
        assert (mine.replaced.job, mine.replaced.started) == ("nightly", "then")
    with lease(tmp_path) as mine:
        assert mine.replaced is None


def test_the_lease_of_a_run_that_lives_is_released_by_force_alone(tmp_path: Path) -> None:
    with lease(tmp_path, "slow") as mine:
        with pytest.raises(ServiceError, match=rf"held by run slow \(process {os.getpid()} .*alive.*--force"):
            release(str(tmp_path), "ingest")
        mine.check()
        assert release(str(tmp_path), "ingest", force=True).state == "alive"
        with pytest.raises(ServiceError, match="likeness unlock"):
            mine.check()
        with lease(tmp_path, "next") as taken:
            assert taken.replaced is None  # the slow one writes its own row
            taken.check()
    assert held_leases(str(tmp_path)) == []


@pytest.mark.parametrize(("age", "state"), [(EXPIRY_S - 10, "alive"), (EXPIRY_S + 1, "dead")])
def test_a_silent_machine_is_dead_after_a_minute(tmp_path: Path, age: float, state: str) -> None:
    with lease(tmp_path, "far-away"):
        pass
    alter(tmp_path, state="held", host="another-machine", beat=time.time() - age)
    (silent,) = held_leases(str(tmp_path))
    assert silent.state == state
    assert silent.beat_age_s == pytest.approx(age, abs=5)
    if state == "dead":
        release(str(tmp_path), "ingest")
    else:
        with pytest.raises(ServiceError, match="far-away"):
            release(str(tmp_path), "ingest")


def test_a_lease_that_nobody_holds_is_not_released(tmp_path: Path) -> None:
    with lease(tmp_path):
        pass
    with lease(tmp_path, name="load-x"), pytest.raises(UsageError, match=r"no run holds a lease 'ingest'.*load-x"):
        release(str(tmp_path), "ingest")
    with pytest.raises(UsageError, match="leases held are: none"):
        release(str(tmp_path), "../../etc", force=True)


def test_a_damaged_lease_is_released_by_force_alone(tmp_path: Path) -> None:
    (tmp_path / "leases").mkdir()
    (tmp_path / "leases" / "ingest.3.json").write_text("{")
    assert [(one.name, one.state) for one in held_leases(str(tmp_path))] == [("ingest", "damaged")]
    with pytest.raises(ServiceError, match="is damaged"):
        release(str(tmp_path), "ingest")
    release(str(tmp_path), "ingest", force=True)
    with lease(tmp_path) as mine:
        assert mine.replaced is None
        mine.check()


def test_unlock_on_the_command_line(tmp_path: Path, holder: "subprocess.Popen[str]") -> None:
    def unlock(*words: str) -> "subprocess.CompletedProcess[str]":
        command = [sys.executable, "-m", "likeness.cli", "unlock", "--root", str(tmp_path), *words]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    (lease,) = json.loads(unlock("--json").stdout)
    assert (lease["name"], lease["state"], lease["pid"]) == ("ingest", "alive", holder.pid)
    refused = unlock("--name", "ingest")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "which is alive" in refused.stderr
    assert unlock("--name", "ingst").returncode == 2
    forced = unlock("--name", "ingest", "--force")
    assert (forced.returncode, forced.stderr) == (0, "")
    assert forced.stdout.startswith("released: ingest, run run-of-another (process")
    assert "no run holds a lease" in unlock().stdout
