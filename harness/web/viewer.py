"""`harness view FILE…`: the pages over transcript files, without a server of tasks."""

from __future__ import annotations

import socket
import webbrowser
from collections.abc import Callable, Sequence
from pathlib import Path

import uvicorn
from fastapi import FastAPI

from harness.web.access import LinkKey
from harness.web.pages import pages
from harness.web.sources import FileSource


def viewer(files: Sequence[Path], tasks_dir: Path, key: LinkKey) -> FastAPI:
    """The application. Raises RecordingError for a file that cannot be read."""
    source = FileSource(files, tasks_dir)
    source.read()
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(pages(source, key))
    return app


def view(
    files: Sequence[Path], tasks_dir: Path, port: int, say: Callable[[str], None], browser: bool
) -> None:
    """Serve until interrupted, on loopback only. Raises RecordingError, OSError."""
    key = LinkKey(loopback=True)
    app = viewer(files, tasks_dir, key)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        # From now on a browser waits for its answer; it would be refused until the server listens.
        listener.listen()
        link = key.link(f"http://127.0.0.1:{listener.getsockname()[1]}")
        say(link)
        if browser:
            webbrowser.open(link)
        # The access log would hold the key.
        config = uvicorn.Config(app, log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])
