"""`likeness serve`, `likeness leaf` and `likeness key`: the query service, its leaves and its API keys."""

import contextlib
import json
import signal
import socket
import ssl
import threading
from pathlib import Path
from typing import Annotated

import typer

from likeness.cli.common import Assignments, Config, Root, load, with_root
from likeness.core import garbage, malloc
from likeness.core.errors import UsageError
from likeness.core.line_writer import close_log, report_line
from likeness.core.settings import Settings

_POLL_S = 0.5


def serve(
    root: Root = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain (PEM), with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="private key (PEM)")] = None,
    leaf: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a `likeness leaf` that holds shards; may be repeated")
    ] = None,
    workers: Annotated[int, typer.Option(min=1, max=256, help="processes that answer; limits hold for all")] = 1,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Serve search over HTTP, with a page at /.

    Switches to another build as soon as one is published.
    """
    import uvicorn

    from likeness.serving.http.app import create_app, stop_with_server
    from likeness.serving.http.connections import server_config
    from likeness.serving.http.telemetry import metrics_listener
    from likeness.serving.http.workers import run_workers
    from likeness.serving.service import Service
    from likeness.serving.start_checks import check_start

    settings = load(root, config, [*(assignments or ()), *([f"serve.leaves={json.dumps(leaf)}"] if leaf else ())])
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together; name both, or none")
    if tls_cert and tls_key:
        _check_certificate(tls_cert, tls_key)
    check_start(settings)
    listener = _listen(host, port)
    address, number = listener.getsockname()[:2]
    place = f"http{'s' if tls_cert else ''}://{f'[{address}]' if ':' in address else address}:{number}/"
    certificate = {"ssl_certfile": tls_cert, "ssl_keyfile": tls_key}
    with contextlib.closing(listener):
        if workers > 1:
            run_workers(
                settings, listener, workers, report_line, lambda: report_line(f"listening on {place}"), **certificate
            )
            return
        malloc.set_mmap_threshold(malloc.LARGE)
        service = Service(settings, report_line)
        app = create_app(service, report_line)
        stop_with_server(app, close_log)
        with metrics_listener(app.state.metrics.registry, address, settings.serve.metrics_port):
            try:
                service.start()
                garbage.collect_rarely()
                report_line(f"listening on {place}")
                uvicorn.Server(server_config(app, settings.serve, **certificate)).run([listener])
            finally:
                service.stop()


@with_root
def leaf(
    settings: Settings,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes one that is free")] = "127.0.0.1:8081",
) -> None:
    """Serve shards for `likeness serve`.

    Loads and searches the shards that a `likeness serve --leaf HOST:PORT` assigns to it.
    """
    from likeness.index.builds import Builds
    from likeness.serving.leaf_server import LeafServer, read_token

    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {listen!r} is not HOST:PORT")
    malloc.set_mmap_threshold(malloc.LARGE)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    builds = Builds.open(settings)
    server = LeafServer(builds, host, int(port), read_token(settings.serve.leaf_token), report_line)
    report_line(f"leaf listening on {host}:{server.port}")
    while not stopped.wait(_POLL_S):  # a signal may go to another thread, which does not wake this one
        pass
    server.shutdown()


def key(
    name: Annotated[str, typer.Argument(help="owner of the key")],
    file: Annotated[Path, typer.Option(help="file of keys (serve.keys); created if it is missing")] = Path("keys.txt"),
) -> None:
    """Create an API key for the query service.

    Prints the key once, and adds its SHA-256 to a file.
    """
    from likeness.serving.http.auth import new_key

    print(new_key(file, name))


def _check_certificate(cert: Path, key: Path) -> None:
    """Loads a certificate with its key, as the server will.

    Raises:
        UsageError: one of them cannot be read, or they do not belong together.
    """
    for flag, path in (("--tls-cert", cert), ("--tls-key", key)):
        try:
            path.read_bytes()
        except OSError as error:
            raise UsageError(f"{flag} {path}: {error.strerror}; name a PEM file that can be read") from None
    try:  # without a password, which would be asked for on the terminal
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, password="")
    except (ssl.SSLError, OSError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise UsageError(
            f"--tls-cert {cert} --tls-key {key}: {reason}; name a certificate (PEM) and its own key, without a password"
        ) from None


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
        listener.listen()
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; name another, or --port 0") from None
    return listener
