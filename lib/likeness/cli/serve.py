"""`likeness serve`, `likeness leaf` and `likeness key`: the query service and its page, and who may ask it."""

import json
import signal
import socket
import sys
import threading
from pathlib import Path
from typing import Annotated

import typer

from likeness.cli.common import Assignments, Config, Root, load
from likeness.core import malloc
from likeness.core.errors import UsageError

_LARGE = 4 << 20
"""Bytes from which on an array goes back to the system: a leaf grew by 30 MB with every other build."""
_LOOK_S = 0.5


def serve(
    root: Root = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain (PEM), with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="private key (PEM)")] = None,
    leaf: Annotated[
        list[str] | None, typer.Option(help="HOST:PORT of a `likeness leaf` that holds shards; may be repeated")
    ] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Answer queries over HTTP, and show a page at /. Goes along when another build is published."""
    import uvicorn

    from likeness.serving.http.app import create_app
    from likeness.serving.service import Service

    settings = load(root, config, [*(assignments or ()), *([f"serve.leaves={json.dumps(leaf)}"] if leaf else ())])
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together; name both, or none")
    malloc.give_back(_LARGE)
    listener = _listen(host, port)
    service = Service(settings, _say)
    options = uvicorn.Config(
        create_app(service, _say),
        log_level="warning",
        access_log=False,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        timeout_graceful_shutdown=settings.serve.drain_s,
        server_header=False,
    )
    try:
        service.start()
        address, number = listener.getsockname()[:2]
        shown = f"[{address}]" if ":" in address else address
        _say(f"listening on http{'s' if tls_cert else ''}://{shown}:{number}/")
        uvicorn.Server(options).run([listener])
    finally:
        service.stop()
        listener.close()


def leaf(
    root: Root = None,
    listen: Annotated[str, typer.Option(help="HOST:PORT; port 0 takes one that is free")] = "127.0.0.1:8081",
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Hold shards for `likeness serve --leaf HOST:PORT`, which says which; loads, searches and swaps as that says."""
    from likeness.index.builds import Builds
    from likeness.serving.leaf_server import LeafServer, read_token

    settings = load(root, config, assignments)
    host, _, port = listen.rpartition(":")
    if not host or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {listen!r} is not HOST:PORT")
    malloc.give_back(_LARGE)
    stopped = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopped.set())
    builds = Builds(settings.root, settings.extract.cache)
    server = LeafServer(builds, host, int(port), read_token(settings.serve.leaf_token), _say)
    _say(f"leaf listening on {host}:{server.port}")
    while not stopped.wait(_LOOK_S):  # the system may hand a signal to another thread, which wakes nobody here
        pass
    server.shutdown()


def key(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    file: Annotated[Path, typer.Option(help="file of keys (serve.keys); made if it is missing")] = Path("keys.txt"),
) -> None:
    """Make an API key for the query service: it is printed once, and its SHA-256 is added to a file."""
    from likeness.serving.http.auth import new_key

    print(new_key(file, name))


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


def _say(told: str) -> None:
    print(told, file=sys.stderr, flush=True)
