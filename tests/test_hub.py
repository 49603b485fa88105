"""Repositories over HTTP, from a small server that answers as the hub does."""

from __future__ import annotations

import hashlib
import http.server
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlparse

import pytest
from prepared import REPOSITORY

REPO = "someone/some-set"
FIRST, SECOND = "1" * 40, "2" * 40


class Hub(http.server.ThreadingHTTPServer):
    """Holds commits of one repository, the last one being `main`."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.commits: dict[str, dict[str, bytes]] = {}
        self.asked: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def commit(self, name: str) -> str:
        return list(self.commits)[-1] if name == "main" else name


class Answer(http.server.BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.server.asked.append(f"{self.command} {path}")
        about, files = f"/api/datasets/{REPO}", f"/datasets/{REPO}/resolve/"
        if path == about or path.startswith(f"{about}/revision/"):
            commit = self.server.commit(
                path.removeprefix(f"{about}/revision/").replace(about, "main")
            )
            names = self.server.commits.get(commit)
            if names is not None:
                siblings = [{"rfilename": name} for name in names]
                said = {"id": REPO, "sha": commit, "siblings": siblings}
                return self.give(json.dumps(said).encode(), commit)
        elif path.startswith(files):
            commit, _, name = path.removeprefix(files).partition("/")
            commit = self.server.commit(commit)
            content = self.server.commits.get(commit, {}).get(name)
            if content is not None:
                return self.give(content, commit)
        self.give(b"", "", 404)

    def give(self, content: bytes, commit: str, status: int = 200) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha256(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", commit)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(content)

    def log_message(self, format: str, *args: Any) -> None:
        """Not on the terminal."""


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    server.commits[FIRST] = {
        "README.md": b"about",
        "data/a.jsonl": b'{"text": "a"}\n',
        "data/b.jsonl": b'{"text": "b"}\n',
    }
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def fetch(url: str, downloads: Path, **env: str) -> tuple[dict[str, Any] | None, str]:
    """What a process of its own fetched, and what it said instead if it could not."""
    program = (
        "import json, sys\n"
        "from pathlib import Path\n"
        "from corpus.files import DataError\n"
        "from corpus.hub import Origin\n"
        "try:\n"
        f"    got = Origin(Path(sys.argv[1])).fetch({REPO!r}, ('data/*.jsonl',))\n"
        "except DataError as error:\n"
        "    sys.exit(str(error))\n"
        "files = {f.name: f.path.read_text() for f in got.files}\n"
        "print(json.dumps({'revision': got.revision, 'files': files}))\n"
    )
    own = {k: v for k, v in os.environ.items() if not k.lower().endswith("_proxy")}
    done = subprocess.run(
        [sys.executable, "-c", program, str(downloads)],
        env={
            **own,
            "PYTHONPATH": str(REPOSITORY / "nanoGPT"),
            "HF_ENDPOINT": url,
            "HF_HOME": str(downloads / "home"),
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            **env,
        },
        capture_output=True,
        text=True,
        timeout=100,
    )
    if done.returncode == 0:
        return json.loads(done.stdout), ""
    assert "Traceback" not in done.stderr
    return None, done.stderr.strip().splitlines()[-1]


def test_the_first_revision_is_kept_to(hub: Hub, tmp_path: Path) -> None:
    expected = {
        "revision": FIRST,
        "files": {"data/a.jsonl": '{"text": "a"}\n', "data/b.jsonl": '{"text": "b"}\n'},
    }
    assert fetch(hub.url, tmp_path) == (expected, "")
    pins = json.loads((tmp_path / "pins.json").read_text())
    assert pins[REPO]["revision"] == FIRST
    assert pins[REPO]["files"]["data/a.jsonl"] == {
        "bytes": 14,
        "sha256": hashlib.sha256(b'{"text": "a"}\n').hexdigest(),
    }
    hub.commits[SECOND] = {"data/a.jsonl": b'{"text": "new"}\n'}
    hub.asked.clear()
    assert fetch(hub.url, tmp_path) == (expected, "")
    assert not [asked for asked in hub.asked if asked.startswith("GET /datasets")]  # all was there


def test_another_content_under_the_same_revision_is_refused(hub: Hub, tmp_path: Path) -> None:
    fetch(hub.url, tmp_path)
    (tmp_path / "hub" / REPO / "data/b.jsonl").unlink()
    hub.commits[FIRST]["data/b.jsonl"] = b'{"text": "c"}\n'
    found, said = fetch(hub.url, tmp_path)
    assert found is None
    assert f"is not the data/b.jsonl of {REPO} that was used before: 14 bytes, sha256" in said


@pytest.mark.parametrize("env", [{}, {"HF_HUB_OFFLINE": "1"}], ids=["nobody answers", "turned off"])
def test_without_a_connection_it_says_what_to_do(tmp_path: Path, env: dict[str, str]) -> None:
    found, said = fetch("http://127.0.0.1:9", tmp_path, **env)
    assert found is None
    assert said.startswith(f"could not fetch {REPO} from the hub: ")
    assert said.endswith(f"--local-dir MIRROR/{REPO}` and pass --mirror MIRROR")


def test_a_repository_that_is_not_there(hub: Hub, tmp_path: Path) -> None:
    hub.commits.clear()
    hub.commits["3" * 40] = {}
    found, said = fetch(hub.url, tmp_path)
    assert found is None
    assert f"{REPO} at {'3' * 40} has no file named like data/*.jsonl" in said
