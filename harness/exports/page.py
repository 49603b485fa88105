"""A session as one HTML page that stands alone: it can be mailed, and loads nothing.

Style, script and, where there are curves, plotly's script are inside; a policy in the page allows
exactly these scripts, by their hashes.
"""

from __future__ import annotations

import base64
import hashlib

from markupsafe import Markup

from harness.story import Story
from harness.web import views
from harness.web.pages import environment, static_files

POLICY = "default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data:"


def export(story: Story) -> str:
    files = static_files()
    shown = [(f"test #{test.number}", test) for test in story.results]
    curves = views.curves(shown)
    names = ["plotly.min.js", "harness.js"] if curves else []
    scripts = [_inline(files[name].read_text("utf-8")) for name in names]
    sources = " ".join(f"'sha256-{_digest(script)}'" for script in scripts) or "'none'"
    changes = [
        (
            step,
            [(c.after.name, views.diff_hunks(c.before, c.after, plain=True)) for c in step.changes],
        )
        for step in story.steps
    ]
    finals = story.files_at(len(story.steps))
    return (
        environment()
        .get_template("export.html")
        .render(
            story=story,
            policy=POLICY.format(scripts=sources),
            style=Markup(files["style.css"].read_text("utf-8")),
            scripts=[Markup(script) for script in scripts],
            changes=changes,
            finals=[
                (name, views.file_lines(file, story.start[name])) for name, file in finals.items()
            ],
            table=views.metric_table(shown, [], None, None, story.profile),
            curves=curves,
        )
        + "\n"
    )


def _inline(script: str) -> str:
    """A script that cannot end its element early, and does the same."""
    return script.replace("</script", "<\\/script").replace("<!--", "<\\!--")


def _digest(script: str) -> str:
    return base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
