"""Web servers of files: a real one with ranges over TLS, and ones that answer wrongly."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.staticfiles import StaticFiles

from tests.integration.gateway_peers import wait_for


@contextmanager
def files(folder: Path, certificate: Path | None = None, key: Path | None = None) -> Iterator[str]:
    """Starlette's files, which know ranges; gives the address, with https where there is a key."""
    app = Starlette()
    app.mount("/", StaticFiles(directory=folder))
    with served(app, certificate, key) as url:
        yield url


@contextmanager
def served(app: Starlette, certificate: Path | None, key: Path | None) -> Iterator[str]:
    """Any application on a free port of loopback."""
    server = uvicorn.Server(
        uvicorn.Config(app, port=0, log_level="warning", ssl_certfile=certificate, ssl_keyfile=key)
    )
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    try:
        assert wait_for(lambda: server.started, 20)
        yield f"{'https' if key else 'http'}://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()


@contextmanager
def scripted(answer: Callable[[socket.socket, str], Any]) -> Iterator[str]:
    """A server whose every answer ``answer`` writes, from the request's text; gives its address."""
    listening = socket.create_server(("127.0.0.1", 0))
    ended = threading.Event()

    def serve() -> None:
        while True:
            caller, _ = listening.accept()
            with caller:
                if ended.is_set():
                    return
                try:
                    answer(caller, caller.recv(65536).decode())
                except OSError:
                    continue  # the caller hung up, as it should

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    port = listening.getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        ended.set()
        socket.create_connection(("127.0.0.1", port)).close()
        thread.join(20)
        listening.close()
