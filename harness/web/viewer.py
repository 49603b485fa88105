"""`harness view FILE…`: the pages over transcript files, without a server of tasks."""

from __future__ import annotations

import gc
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
    return _application(_read(files, tasks_dir), key)


def view(
    files: Sequence[Path], tasks_dir: Path, port: int, say: Callable[[str], None], browser: bool
) -> None:
    """Serve until interrupted, on loopback only. Raises RecordingError, OSError."""
    key = LinkKey(loopback=True)
    source = _read(files, tasks_dir)
    gc.freeze()  # it all stays; to look at it again and again would make pages wait
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        # From now on a browser waits for its answer; it would be refused until the server listens.
        listener.listen()
        ids = source.ids
        link = key.link(
            f"http://127.0.0.1:{listener.getsockname()[1]}",
            f"/sessions/{ids[0]}" if len(ids) == 1 else "/",
        )
        say(link)
        if browser:
            webbrowser.open(link)
        # The access log would hold the key.
        config = uvicorn.Config(_application(source, key), log_level="warning", access_log=False)
        uvicorn.Server(config).run(sockets=[listener])


def _read(files: Sequence[Path], tasks_dir: Path) -> FileSource:
    source = FileSource(files, tasks_dir)
    collects = gc.isenabled()
    gc.disable()  # hardly any garbage comes of it, and much is kept that would be looked through
    try:
        source.read()
    finally:
        if collects:
            gc.enable()
    return source


def _application(source: FileSource, key: LinkKey) -> FastAPI:
    app = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    app.include_router(pages(source, key))
    return app
