"""Wrong settings of the service: `likeness serve` and `leaf` end with exit code 2 and one line, before they listen."""

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from likeness.cli import main
from likeness.core.errors import UsageError
from likeness.core.settings import load_settings
from likeness.serving.http.auth import new_key

CERTIFICATE = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]


Ended = Callable[..., tuple[int, str]]


@pytest.fixture
def ended(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Ended:
    """Runs a command in this process; gives its exit code and what it writes to standard error."""

    def run(*words: str) -> tuple[int, str]:
        monkeypatch.setattr(sys, "argv", ["likeness", *words])
        with pytest.raises(SystemExit) as caught:
            main()
        return int(caught.value.code or 0), capsys.readouterr().err.strip()

    return run


@pytest.mark.parametrize(
    ("assignment", "remedy"),
    [
        ("serve.photo_url=https://shop.example/{image}.jpg", "{image_id}"),
        ("serve.photo_url=https://shop.example/{}.jpg", "{image_id}"),
        ("serve.photo_url=https://shop.example/{image_id.jpg", "brace"),
        ("serve.photo_url=https://shop.example/{image_id!r}.jpg", "{image_id}"),
        ("serve.photo_url=https://shop.example/{image_id:>9}.jpg", "{image_id}"),
        ("serve.photo_url=https://shop.example/photo.jpg", "{image_id}"),
        ("serve.photo_url=shop.example/{image_id}.jpg", "starts with https://"),
        ("serve.photo_url=javascript:{image_id}", "starts with https://"),
        ("serve.leaves=['10.0.0.5']", "HOST:PORT"),
        ("serve.leaves=[':8081']", "HOST:PORT"),
        ("serve.leaves=['leaf:http']", "HOST:PORT"),
        ("serve.leaves=['leaf:0']", "HOST:PORT"),
        ("serve.leaves=['leaf:70000']", "HOST:PORT"),
        ("serve.leaves=['grpc://leaf:8081']", "HOST:PORT"),
        ("serve.leaves=['a:1', 'a:1']", "once"),
        ("serve.cors=['shop.example']", "https://host"),
        ("serve.cors=['https://shop.example/']", "without a path"),
        ("serve.builds=['shop']", "serve.keys"),
        ("serve.rate=inf", "finite"),
        ("index.memory_gb=inf", "finite"),
    ],
)
def test_a_setting_that_cannot_be_meant_is_refused(assignment: str, remedy: str) -> None:
    with pytest.raises(UsageError) as caught:
        load_settings(assignments=[assignment])
    (line,) = str(caught.value).splitlines()
    key, _, value = assignment.partition("=")
    assert line.startswith(f"settings: {key} = ")
    assert value.strip("[]").split(",")[0] in line
    assert remedy in line


def test_more_replicas_than_leaves_are_refused() -> None:
    with pytest.raises(UsageError, match=r"serve\.replicas = 3.*2 are named in serve\.leaves"):
        load_settings(assignments=["serve.leaves=['a:1', 'b:1']", "serve.replicas=3"])


@pytest.mark.parametrize(
    "assignment",
    [
        "serve.photo_url=https://shop.example/{category}/{image_id}.jpg",
        "serve.photo_url=/photos/{product_id}",
        "serve.photo_url={uri}",
        "serve.leaves=['10.0.0.5:8081', '[::1]:8081', 'leaf-1.shop.example:8081']",
        "serve.cors=['*', 'https://shop.example', 'http://localhost:3000']",
        "serve.builds=['*']",
    ],
)
def test_what_can_be_meant_is_taken(assignment: str) -> None:
    load_settings(assignments=[assignment])


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty root, and files of every kind that a setting may name."""
    folder = tmp_path_factory.mktemp("settings")
    (folder / "root").mkdir()
    new_key(folder / "keys.txt", "shop")
    (folder / "no-keys.txt").write_text("# none\n")
    (folder / "bad-keys.txt").write_text("shop 1234\n")
    (folder / "short.txt").write_text("short")
    for name in ("one", "other"):
        out = ["-keyout", str(folder / f"{name}.key"), "-out", str(folder / f"{name}.pem"), "-subj", "/CN=localhost"]
        subprocess.run([*CERTIFICATE, *out], check=True, capture_output=True)
    locked = ["openssl", "ec", "-aes256", "-passout", "pass:secret", "-in", str(folder / "one.key")]
    subprocess.run([*locked, "-out", str(folder / "locked.key")], check=True, capture_output=True)
    return folder


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ("--set serve.keys={}/none.txt", "none.txt"),
        ("--set serve.keys={}", "serve.keys"),
        ("--set serve.keys={}/no-keys.txt", "no-keys.txt"),
        ("--set serve.keys={}/bad-keys.txt", "bad-keys.txt:1"),
        ("--set serve.leaf_token={}/none.txt", "none.txt"),
        ("--set serve.leaf_token={}/short.txt", "short.txt"),
        ("--leaf leaf", "'leaf' is not HOST:PORT"),
        ("--tls-cert {0}/none.pem --tls-key {0}/one.key", "none.pem"),
        ("--tls-cert {0}/one.pem --tls-key {0}/none.key", "none.key"),
        ("--tls-cert {0}/one.pem --tls-key {0}/other.key", "its own key"),
        ("--tls-cert {0}/short.txt --tls-key {0}/one.key", "short.txt"),
        ("--tls-cert {0}/one.pem --tls-key {0}/locked.key", "without a password"),
        ("--set keyed.uri=redis://host/1", "sqlite:///path"),
        ("--set keyed.uri=hbase://host/name", "host:port"),
        ("--set extract.weights={}/none.pth", "none.pth"),
        ("--set spaces=['alexnot.fc6']", "did you mean 'alexnet'?"),
        ("--set serve.category_model=categories", "no such model"),
    ],
)
def test_the_service_does_not_start(ended: Ended, files: Path, flags: str, named: str) -> None:
    code, said = ended("serve", "--root", f"{files}/root", "--port", "0", *flags.format(files).split())
    assert code == 2, said
    assert len(said.splitlines()) == 1, said
    assert said.startswith("error: ")
    assert named in said
    assert "listening" not in said


def test_a_leaf_does_not_start(ended: Ended, files: Path) -> None:
    for flags, named in (("--listen nowhere", "HOST:PORT"), (f"--set serve.leaf_token={files}/short.txt", "short.txt")):
        code, said = ended("leaf", "--root", f"{files}/root", *flags.split())
        assert (code, len(said.splitlines())) == (2, 1), said
        assert named in said


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read every file")
def test_keys_that_may_not_be_read(ended: Ended, files: Path) -> None:
    path = files / "secret.txt"
    new_key(path, "shop")
    path.chmod(0)
    code, said = ended("serve", "--root", f"{files}/root", "--port", "0", "--set", f"serve.keys={path}")
    assert (code, "secret.txt" in said) == (2, True)
