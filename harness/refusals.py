"""The statuses that refuse a call, as the API's document describes them."""

from __future__ import annotations

from typing import Any, Final

from harness.wire import ErrorBody

MEANINGS: Final = {
    400: ("bad_request", "The request is malformed.", "See /docs for the call."),
    401: (
        "bad_token",
        "The token does not belong to this session.",
        "Send 'Authorization: Bearer <token>' with the token that creating it gave, or a key.",
    ),
    403: (
        "key_needed",
        "A session's token reaches only its own session.",
        "Send 'Authorization: Bearer <key>' with an API key.",
    ),
    404: (
        "unknown_session",
        "There is no session 0123456789abcdef.",
        "POST /v1/sessions starts one.",
    ),
    405: ("method_not_allowed", "Method Not Allowed", "See /docs for the calls there are."),
    409: (
        "key_conflict",
        "This Idempotency-Key was used for another call.",
        "Use a new key for each operation, and the same one only to repeat it.",
    ),
    413: ("too_large", "The request is larger than 2000000 bytes.", "Send a smaller edit."),
    422: ("bad_request", "body.task: Field required", "See /docs for the call."),
    429: ("too_many_requests", "Too many requests.", "Wait as long as Retry-After says."),
    503: ("database_unavailable", "The database does not answer.", "Try again in a moment."),
}  # fmt: skip
"""by status, one code, message and hint that come with it"""

_TITLES: Final = {
    400: "The request is malformed.",
    401: "No token, or one that does not fit.",
    403: "The credential does not reach this, or Host or Origin are not ours.",
    404: "What the address names is not there.",
    405: "Not a method of this address.",
    409: "An Idempotency-Key came back with another call.",
    413: "The body is too large.",
    422: "The call's parameters or body cannot be; the message names each.",
    429: "Too many requests; `Retry-After` says when to come back.",
    503: "Nothing was done, and the same call may be repeated after `Retry-After` seconds.",
}

_RETRY_AFTER: Final = {
    "Retry-After": {
        "description": "Seconds to wait before the call is repeated.",
        "schema": {"type": "integer", "minimum": 0},
    }
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """FastAPI's `responses` for these statuses, each with an error object and an example."""
    # What asks for a credential also looks at what it reaches, and at Host and Origin.
    reach = {403} if 401 in statuses else set()
    return {status: _refusal(status) for status in sorted({*statuses, *reach, 429, 503})}


def _refusal(status: int) -> dict[str, Any]:
    code, message, hint = MEANINGS[status]
    found: dict[str, Any] = {
        "model": ErrorBody,
        "description": _TITLES[status],
        "content": {
            "application/json": {
                "example": {"error": {"code": code, "message": message, "hint": hint}}
            }
        },
    }
    if status in (429, 503):
        found["headers"] = _RETRY_AFTER
    if status == 401:
        found["headers"] = {
            "WWW-Authenticate": {"description": "`Bearer`.", "schema": {"type": "string"}}
        }
    return found
