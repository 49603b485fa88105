"""`harness leaderboard`: submissions and baselines, ranked."""

from __future__ import annotations

from typing import Annotated

import typer
from rich.console import Console

from harness import leaderboard_forms
from harness.commands.journal import journal
from harness.standings import Standings
from harness.terminal import bad_input, known_profile, known_task, settings_here

app = typer.Typer()


@app.command()
def leaderboard(
    task: Annotated[str, typer.Argument(help="The task's name.")],
    profile: Annotated[str | None, typer.Option(help="Of this profile alone.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="All there is, as the API.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="A line for each row.")] = False,
    as_markdown: Annotated[bool, typer.Option("--markdown", help="Tables for a page.")] = False,
) -> None:
    """Submissions and baselines on the split final, which agents are never shown."""
    settings = settings_here()
    chosen = known_task(settings, task)
    if profile is not None:
        known_profile(chosen, profile)
    if sum((as_json, as_csv, as_markdown)) > 1:
        raise bad_input("--json, --csv and --markdown are used one at a time")
    with journal(settings, may_be_empty=True) as store:
        found = Standings(store, {chosen.name: chosen}).board(chosen.name)
    board = leaderboard_forms.of_profile(found, profile)
    if as_json:
        typer.echo(board.model_dump_json(indent=1))
    elif as_csv:
        typer.echo(leaderboard_forms.as_csv(board), nl=False)
    elif as_markdown:
        typer.echo(leaderboard_forms.markdown(board, chosen), nl=False)
    else:
        leaderboard_forms.show(board, chosen, Console())
