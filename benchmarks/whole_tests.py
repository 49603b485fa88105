"""How long whole tests of the unedited file take, from the call of `test` to its result.

    python benchmarks/whole_tests.py [--profiles tiny,smoke] [--task NAME]

Plays a session of each profile over HTTP against a server of its own, on this machine's prepared
data (HARNESS_DATA_DIR), and prints a Markdown table. Nothing is kept from call to call, so that the
checks before the test are measured too. The load average tells what else the machine did.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
from pydantic import SecretStr
from rich.console import Console

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from harness.access import fresh_key  # noqa: E402
from harness.demo import running_server  # noqa: E402
from harness.settings import Settings  # noqa: E402

KEY = fresh_key()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--profiles", default="tiny,smoke")
    parser.add_argument("--task", default="llm-pretrain-residual")
    options = parser.parse_args()
    os.environ["PYTHONPATH"] = str(ROOT)
    data = Settings().resolved_data_dir
    console = Console(quiet=True)
    print("| profile | whole test | its stages | first loss | scored | load before, after |")
    print("|---|---|---|---|---|---|")
    for profile in options.profiles.split(","):
        with tempfile.TemporaryDirectory(prefix="whole-tests-") as folder:
            settings = Settings(
                state_dir=Path(folder),
                data_dir=data,
                tasks_dir=ROOT / "tasks",
                executor="local",
                api_key=SecretStr(KEY),
            )
            before = os.getloadavg()[0]
            with running_server(settings, console) as url:
                seconds, result = play(url, options.task, profile)
            print(row(profile, seconds, result, before, os.getloadavg()[0]), flush=True)


def play(url: str, task: str, profile: str) -> tuple[float, dict[str, Any]]:
    """A session's first test; the seconds until its result was there, and the result."""
    with httpx.Client(base_url=url, timeout=90) as http:
        response = http.post(
            "/v1/sessions",
            json={"task": task, "profile": profile},
            headers={"Authorization": f"Bearer {KEY}"},
        )
        response.raise_for_status()
        created = response.json()
        path = f"/v1/sessions/{created['id']}"
        headers = {"Authorization": f"Bearer {created['token']}"}
        began = time.monotonic()
        begun = http.post(f"{path}/tools/test", json={"wait_s": 0}, headers=headers)
        if not begun.raise_for_status().json()["ok"]:
            raise SystemExit(f"the {profile} test did not start: {begun.json()['text']}")
        while True:
            answer = http.get(f"{path}/tests/1", params={"wait_s": 30}, headers=headers)
            answer.raise_for_status()
            result: dict[str, Any] = answer.json()
            if result["state"] not in ("checking", "queued", "running"):
                break
    if not result.get("scored"):
        raise SystemExit(f"the {profile} test has no score: {result['text']}")
    return time.monotonic() - began, result


def row(profile: str, seconds: float, result: dict[str, Any], before: float, after: float) -> str:
    stages = " + ".join(f"{stage['seconds']:.0f}" for stage in result["stages"])
    first = next(point for point in result["curve"] if point["step"] == 0)
    primary, value = next(iter(result["metrics"].items()))
    return (
        f"| `{profile}` | {seconds:.0f} s | {stages} s | {first[primary]:.2f} | "
        f"{primary} {value:.2f} | {before:.1f}, {after:.1f} |"
    )


if __name__ == "__main__":
    main()
