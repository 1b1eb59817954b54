"""`likeness serve` and `likeness key`: the query service and its page in one process, and who may ask it."""

import socket
import sys
from pathlib import Path
from typing import Annotated

import typer

from likeness.cli.common import Assignments, Config, Root, load
from likeness.errors import UsageError


def serve(
    root: Root = None,
    host: Annotated[str, typer.Option(help="address to listen on; 0.0.0.0 for all")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes one that is free")] = 8080,
    tls_cert: Annotated[Path | None, typer.Option(help="certificate chain (PEM), with --tls-key")] = None,
    tls_key: Annotated[Path | None, typer.Option(help="private key (PEM)")] = None,
    config: Config = None,
    assignments: Assignments = None,
) -> None:
    """Answer queries over HTTP, and show a page at /. Goes along when another build is published."""
    import uvicorn

    from likeness.serving.app import create_app
    from likeness.serving.service import Service

    given = load(root, config, assignments)
    if (tls_cert is None) != (tls_key is None):
        raise UsageError("--tls-cert and --tls-key go together; name both, or none")
    listener = _listen(host, port)
    service = Service(given, _say)
    options = uvicorn.Config(
        create_app(service, _say),
        log_level="warning",
        access_log=False,
        ssl_certfile=tls_cert,
        ssl_keyfile=tls_key,
        timeout_graceful_shutdown=given.serve.drain_s,
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


def key(
    name: Annotated[str, typer.Argument(help="whose key it is")],
    file: Annotated[Path, typer.Option(help="file of keys (serve.keys); made if it is missing")] = Path("keys.txt"),
) -> None:
    """Make an API key for the query service: it is printed once, and its SHA-256 is added to a file."""
    from likeness.serving.keys import new_key

    print(new_key(file, name))


def _listen(host: str, port: int) -> socket.socket:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(address)
    except OSError as error:
        raise UsageError(f"--host {host} --port {port}: {error.strerror}; name another, or --port 0") from None
    return listener


def _say(told: str) -> None:
    print(told, file=sys.stderr, flush=True)
