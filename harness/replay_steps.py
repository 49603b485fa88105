"""`harness replay FILE --step`: a recorded session in the terminal, one step at a time.

What a recording holds is shown and never obeyed, as in replay_view.py.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.syntax import Syntax
from rich.text import Text

from harness.diffs import diff_lines
from harness.printable import visible
from harness.recorded import Said
from harness.replay import Change
from harness.story import Story, StoryStep

MAX_LINES = 120
HELP = "Enter next · b back · NUMBER that step · f whole file · q end"


def browse(stories: Sequence[Story], console: Console, ask: Callable[[str], str]) -> None:
    """Show step after step as the reader asks for them; `ask` raises EOFError at the end."""
    for number, story in enumerate(stories, start=1):
        if len(stories) > 1:
            console.print(Rule(f"session {number} of {len(stories)}"))
        _browse_one(story, console, ask)


def _browse_one(story: Story, console: Console, ask: Callable[[str], str]) -> None:
    index, last = 0, len(story.steps)
    _show(story, index, console)
    while True:
        try:
            said = ask(f"[{index} of {last}] {HELP}: ").strip().lower()
        except EOFError:
            return
        if said == "q":
            return
        if said == "f":
            _file(story, index, console)
            continue
        if said in ("", "n", "j"):
            wanted = index + 1
        elif said in ("b", "p", "k"):
            wanted = index - 1
        elif said.isdecimal() and len(said) < 9:
            wanted = int(said)
        else:
            console.print(Text(f"Not known: {visible(said)[:40]}. {HELP}", "yellow"))
            continue
        if not 0 <= wanted <= last:
            if wanted == last + 1 and said in ("", "n", "j"):
                return  # past the end
            console.print(Text(f"There are steps 0 to {last}.", "yellow"))
            continue
        index = wanted
        _show(story, index, console)


def _show(story: Story, index: int, console: Console) -> None:
    for line in _start(story) if index == 0 else _step(story, story.steps[index - 1]):
        console.print(line, soft_wrap=not isinstance(line, Rule), highlight=False)


def _start(story: Story) -> Iterator[Text | Rule | Padding]:
    yield Rule(Text(f"{visible(story.agent)} on {visible(story.recording.task)}", "bold"))
    for file in story.start.values():
        ranges = ", ".join(f"{region} {visible(region.name)}" for region in file.regions)
        yield Text(f"{visible(file.name)}: {len(file.lines)} lines, editable {ranges}")
    for note in story.notes:
        yield Text(f"note: {visible(note)}", "yellow")


def _step(story: Story, step: StoryStep) -> Iterator[Text | Rule | Padding]:
    took = f"  {step.seconds:.2f} s" if step.seconds is not None else ""
    yield Rule(Text(f"step {step.index} of {len(story.steps)}: {visible(step.tool)}{took}", "bold"))
    for item in step.before:
        if isinstance(item, Said):
            yield Text(f"{visible(item.role)}:", "italic cyan")
            yield Padding(Text(visible(item.text, lines=True), "cyan"), (0, 0, 0, 2))
        else:
            yield Text(f"◆ {visible(item.text)}", "yellow")
    for note in step.notes:
        yield Text(f"note: {visible(note)}", "yellow")
    answer = step.text if step.tool not in ("edit", "view") else step.first_line
    yield Text(visible(answer, lines=True), "" if step.ok else "red")
    if not step.ok and step.tool == "edit":
        yield from _attempted(step)
    for change in step.changes:
        yield from _diff(change)


def _attempted(step: StoryStep) -> Iterator[Text]:
    content = (step.args or {}).get("content", (step.args or {}).get("new_str"))
    if isinstance(content, str) and content:
        yield Text("attempted:", "dim")
        for line in content.split("\n")[:MAX_LINES]:
            yield Text(f"  + {visible(line)}", "dim red")


def _diff(change: Change) -> Iterator[Text]:
    yield Text(visible(change.after.name), "bold")
    lines = list(diff_lines(change.before.lines, change.after.lines))
    for sign, number, text in lines[:MAX_LINES]:
        style = {"+": "green", "-": "red", " ": "dim"}[sign]
        yield Text(f"  {number:6d} {sign} {visible(text)}", style)
    if len(lines) > MAX_LINES:
        yield Text(f"         … {len(lines) - MAX_LINES} more lines of this change", "dim")


def _file(story: Story, index: int, console: Console) -> None:
    step = story.steps[index - 1] if index else None
    name = step.file if step else next(iter(story.start))
    file = story.files_at(index)[name]
    console.print(Rule(Text(visible(name))))
    lexer = Syntax.guess_lexer(name)
    code = Syntax(visible(file.text, lines=True), lexer, line_numbers=True, word_wrap=True)
    console.print(code)
