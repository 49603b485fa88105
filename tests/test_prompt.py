"""What an agent is told at the start, whole where the harness words it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest
from conftest import TOY_TASKS, Player, new_player
from fastapi.testclient import TestClient

from custom_pretrain import TrainConfig
from harness.measured import UNEDITED
from harness.prompt import build_prompt
from harness.task import Task, find_tasks

ROOT = Path(__file__).parents[1]


def prompt_of(
    task: Task, profile: str, results: Mapping[str, Mapping[str, float]] | None = None
) -> str:
    files = task.shipped()
    return build_prompt(task, profile, files, results or {})


def section(prompt: str, title: str) -> str:
    """A section's text, from its heading to the next."""
    [found] = [part for part in re.split(r"^(?=## )", prompt, flags=re.M) if title in part[:80]]
    return found.strip()


@pytest.fixture(scope="module")
def vetted() -> Task:
    return find_tasks(TOY_TASKS)["vetted-line"]


@pytest.fixture(scope="module")
def residual() -> Task:
    return find_tasks(ROOT / "tasks")["llm-pretrain-residual"]


RULES = """\
## What the regions may hold

Looked at after every edit. An edit that breaks a rule is kept, with a warning; `test` refuses, \
at no cost, until it is mended.

`line_model.py`:

- *the prediction*: classes, functions, literal constants and imports under new names; it \
defines `predict`.
- Signatures stay: `predict(slope, x)`.
- Not named in a region, except as its own output: `points`.
- Modules that may be imported and used, with what lies below them: `math`."""

BASELINES = """\
## Baselines (read-only reference)

The unedited files, measured here: error=0.267

### slow start

A smaller rate, and then a little larger again.

Measured here: error=0.300

Its edits apply in this order; line numbers are those after the edits before.

```
{"op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3}
# smaller
FIRST_RATE = 0.03
```

```
{"op": "replace", "filename": "line_rate.py", "start_line": 4, "end_line": 4}
FIRST_RATE = 0.04
```"""

TESTS = """\
## Tests (profile `toy`, well under a second)

A test runs these stages, in order, on a snapshot of your files:

- fit-toy (scripts/fit.sh; training at most 20 s; scoring at most 20 s): `error` (primary, metres, \
lower is better). Further metrics of it are measured and not shown.

What you are shown is measured on the development split. Results are ranked on a split that is \
never shown."""


def test_the_sections_that_the_task_file_gives(vetted: Task) -> None:
    results = {UNEDITED: {"error": 0.2667}, "slow_start": {"error": 0.3}}
    prompt = prompt_of(vetted, "toy", results)
    assert section(prompt, "What the regions may hold") == RULES
    assert section(prompt, "Baselines") == BASELINES
    assert section(prompt, "Tests (") == TESTS


def test_what_was_never_measured_is_not_there(vetted: Task) -> None:
    assert "measured here" not in prompt_of(vetted, "toy").lower()


def test_an_agent_of_the_large_profile_learns_all_limits(residual: Task) -> None:
    prompt = prompt_of(residual, "345m")
    assert (
        "- gpt-345m (scripts/gpt_345m.sh; 2 GPUs; training at most 8 h; scoring at most 1 h): "
        "`val_loss` (primary, nats/token, lower is better), "
        "`wikitext2_ppl` (per word, lower is better), "
    ) in prompt
    assert "a step may take at most 2 times as long as the unedited files'" in prompt
    assert (
        "- At most 16,384 bytes a region, 200 characters a literal, 4,096 characters in all "
        "strings of a region, 60 characters a name, 4,096 characters in all names that a region "
        "binds, 64 constants a collection or call."
    ) in prompt
    assert "`abc, collections, contextlib, " in prompt
    assert "times as long" not in prompt_of(residual, "tiny")


def test_every_baseline_is_told_with_its_source_in_a_prompt_of_moderate_length(
    residual: Task,
) -> None:
    prompt = prompt_of(residual, "345m")
    told = section(prompt, "Baselines")
    for baseline in residual.all_baselines():
        assert f"### {baseline.title}\n\n{baseline.description.strip()}\n\nSource: " in told
        assert baseline.paper in told
    assert len(told) < 14_000
    assert len(prompt) < 48_000


@pytest.mark.parametrize("profile", ["345m", "124m", "tiny", "smoke"])
def test_a_profiles_details_are_what_its_script_runs(residual: Task, profile: str) -> None:
    details = residual.profile(profile).details
    assert details in prompt_of(residual, profile)
    said = dict(re.findall(r"(\w+)=([\w.+-]*\w)", details))
    script = residual.script_path(residual.profile(profile).stage("gpt"))
    settings = script.with_name(f"settings_{profile}.sh").read_text()
    given = dict(re.findall(r"--(\w+)=([\w.+-]+)", settings))
    defaults = {key: str(value) for key, value in vars(TrainConfig()).items()}
    assert given.keys() <= said.keys()
    assert said == {key: (defaults | given)[key] for key in said}


def test_measured_results_come_from_any_session_of_the_same_files(client: TestClient) -> None:
    def told() -> str:
        return section(str(new_player(client).created["prompt"]), "Baselines")

    def play(*edits: dict[str, object]) -> Player:
        player = new_player(client)
        for edit in edits:
            assert player.call("edit", **edit)["ok"]
        answer = player.call("test", wait_s=50)
        assert answer["data"]["scored"]
        return player

    rate = {"op": "replace", "filename": "line_rate.py", "start_line": 3, "end_line": 3}
    assert "easured here" not in told()
    play(rate | {"content": "FIRST_RATE = 0.04"})
    assert "easured here" not in told(), "these are nobody's files but that agent's"
    play()
    assert "The unedited files, measured here: error=0.267, near=100.00" in told()
    assert "\nMeasured here" not in told()
    play(*find_tasks(TOY_TASKS)["two-files"].baseline("falling_rate").edits)
    assert told().count("\n\nMeasured here: error=") == 1
    assert "worst" not in told()
