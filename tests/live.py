"""A server on a real socket, and a proxy that cuts every connection, for tests of the doors."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator

import uvicorn
from fastapi import FastAPI


@contextlib.contextmanager
def served(app: FastAPI, port: int = 0) -> Iterator[str]:
    """Serve the application in a thread; yields its URL."""
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listening.bind(("127.0.0.1", port))
    config = uvicorn.Config(app, log_level="warning", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive()
            time.sleep(0.01)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        listening.close()
        assert not thread.is_alive()


class CuttingProxy:
    """Passes bytes on, and cuts every connection so many seconds after it was made."""

    def __init__(self, upstream: str, seconds: float) -> None:
        host, port = upstream.removeprefix("http://").split(":")
        self._upstream, self._seconds = (host, int(port)), seconds
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}"
        self.made = self.cut = 0
        """connections that were made, and those of them that were cut while both sides held on"""
        self._open = True
        self._thread = threading.Thread(target=self._accept)

    def __enter__(self) -> CuttingProxy:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._open = False
        self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self._thread.join(10)

    def _accept(self) -> None:
        while self._open:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self.made += 1
            threading.Thread(target=self._carry, args=(near,), daemon=True).start()

    def _carry(self, near: socket.socket) -> None:
        try:
            far = socket.create_connection(self._upstream)
        except OSError:
            near.close()
            return
        deadline = time.monotonic() + self._seconds
        ends = [
            threading.Thread(target=self._pump, args=pair, daemon=True)
            for pair in ((near, far), (far, near))
        ]
        for end in ends:
            end.start()
        while time.monotonic() < deadline and all(end.is_alive() for end in ends):
            time.sleep(0.01)
        self.cut += all(end.is_alive() for end in ends)
        for side in (near, far):
            with contextlib.suppress(OSError):
                side.shutdown(socket.SHUT_RDWR)
            side.close()

    def _pump(self, source: socket.socket, target: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                target.sendall(data)
