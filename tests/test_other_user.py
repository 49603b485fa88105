"""What docs/operations.md tells an operator to do for an agent on the same machine, done."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from soak import KEY, ServerProcess

PAGE = (Path(__file__).parents[1] / "docs/operations.md").read_text()
SECTION = PAGE.partition("### An agent on the same machine")[2].partition("\n## ")[0]
USER = "nobody"

pytestmark = [
    pytest.mark.skipif(os.geteuid() != 0, reason="another user's processes are started by root"),
    pytest.mark.skipif(
        not all(map(shutil.which, ("runuser", "awk", "curl"))), reason="needs runuser, awk, curl"
    ),
]


@pytest.fixture(scope="module")
def served(toy_data: Path) -> Iterator[tuple[Path, ServerProcess]]:
    """A server in a folder that any user may enter, and that folder."""
    with tempfile.TemporaryDirectory(prefix="harness-", ignore_cleanup_errors=True) as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "state").mkdir(mode=0o755)  # which the server closes
        server = ServerProcess(folder, toy_data)
        server.start()
        yield folder, server
        server.kill()


def run(script: str, folder: Path) -> list[str]:
    """What the page's commands print, for this user, folder and port; we are root already."""
    done = subprocess.run(
        ["bash", "-c", 'sudo() { "$@"; }\n' + script],
        cwd=folder,
        env=os.environ | {"LC_ALL": "C", "HARNESS_API_KEY": KEY},
        capture_output=True,
        text=True,
        check=False,
    )
    return (done.stderr + done.stdout).splitlines()


def test_an_agents_user_reaches_neither_state_nor_key(
    served: tuple[Path, ServerProcess],
) -> None:
    folder, server = served
    [block] = re.findall(r"<!-- a test runs this block, [^\n]*\n```\n(.*?)```", SECTION, re.S)
    block = block.replace("-u agent", f"-u {USER}").replace(".harness/", "state/")
    script = block.replace("127.0.0.1:8000", f"127.0.0.1:{server.port}")
    *denied, status = run(script, folder)
    assert len(denied) == 3
    assert all(line.endswith("Permission denied") for line in denied), denied
    assert status == "401"
    # Root finds all of it there: nothing was denied for want of a file.
    as_root = [
        line for line in run(script.replace(f"runuser -u {USER} --", ""), folder)
        if line.endswith(("denied", "directory"))
    ]  # fmt: skip
    assert as_root == []


def test_an_agents_user_plays_with_its_token_alone(served: tuple[Path, ServerProcess]) -> None:
    folder, server = served
    created = httpx.post(
        f"{server.url}/v1/sessions",
        json={"task": "two-files"},
        headers={"Authorization": f"Bearer {KEY}"},
    ).json()
    commands = SECTION.partition("```\n")[2].partition("```")[0].splitlines()[1:]
    agent = (
        f"""bash -c 'curl -s -H "Authorization: Bearer $(cat ~/token)" """
        f"""{server.url}/v1/sessions/{created["id"]}; env'"""
    )
    script = "\n".join(commands).replace("TOKEN", created["token"])
    script = script.replace("/home/agent", str(folder)).replace("python agent.py", agent)
    script = script.replace("-o agent", f"-o {USER}").replace("-u agent", f"-u {USER}")
    said = "\n".join(run(script, folder))
    assert f'"id":"{created["id"]}"' in said
    assert KEY not in said
    assert (folder / "token").stat().st_mode & 0o777 == 0o600
