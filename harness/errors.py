"""The agent's mistakes as one tree; everything that is not in it is our fault and crashes.

AgentError                      an answer (`ok: false`), never a status
├── BadArguments                the call itself is malformed
├── EditRefused                 an edit that is not carried out; the file is unchanged
│   ├── OutsideRegions          it would touch locked lines
│   ├── NoUniqueMatch           `old_str` occurs not at all, more than once, or across a border
│   └── NotEditable             the filename names no editable file
├── NothingToUndo
├── TestRefused                 no test was started and none was counted
├── NoTestsRemaining
├── NothingToSubmit             `submit` named no test that has finished
└── SessionClosed
"""

from __future__ import annotations


class AgentError(Exception):
    """A mistake of the agent's: `code` for programs, the message for the model."""

    code = "agent_error"

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message

    @property
    def text(self) -> str:
        """The answer's first line."""
        return f"ERROR: {self.message}"


class BadArguments(AgentError):
    code = "bad_arguments"


class EditRefused(AgentError):
    code = "edit_refused"


class OutsideRegions(EditRefused):
    code = "outside_regions"


class NoUniqueMatch(EditRefused):
    code = "no_unique_match"


class NotEditable(EditRefused):
    code = "not_editable"


class NothingToUndo(AgentError):
    code = "nothing_to_undo"


class TestRefused(AgentError):
    code = "test_refused"
    __test__ = False  # pytest would collect the name


class NoTestsRemaining(AgentError):
    code = "no_tests_remaining"


class CheckLimit(AgentError):
    code = "check_limit"


class NothingToSubmit(AgentError):
    code = "nothing_to_submit"


class SessionClosed(AgentError):
    code = "session_closed"


def all_codes() -> dict[str, type[AgentError]]:
    """Every code of the tree with its class, for the docs and their test."""
    found: dict[str, type[AgentError]] = {}
    pending: list[type[AgentError]] = [AgentError]
    while pending:
        cls = pending.pop()
        found[cls.code] = cls
        pending.extend(cls.__subclasses__())
    return found
