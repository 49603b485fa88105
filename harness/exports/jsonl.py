"""The transcript itself: the header and every event, redacted, with their chain."""

from __future__ import annotations

from harness.events import canonical
from harness.story import Story


class ExportError(ValueError):
    """The session has no such form; the message is one line."""


def export(story: Story) -> str:
    """Byte for byte what the server gives. Raises ExportError for other formats' recordings."""
    header = story.recording.header
    if header is None:
        raise ExportError(
            f"a recording in the format {story.recording.format!r} has no journal to export; "
            "use --format atif, which keeps all that it holds"
        )
    values = [header.model_dump(mode="json"), *(e.redacted() for e in story.recording.events)]
    return "".join(canonical(value) + "\n" for value in values)
