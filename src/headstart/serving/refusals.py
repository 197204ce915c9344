"""`RequestRefused`: why a request gets no answer (a status, a code and a sentence), and the response that says so.

    raise RequestRefused(415, "content_type", "The content type 'text/plain' is not read. Send ...")

Every response is JSON.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from headstart.serving.served_answers import DeadlinePassed, ImageRefusal, Overloaded


class JsonResponse(Response):
    """JSON in ASCII: names of classes may contain what UTF-8 cannot encode."""

    media_type = "application/json"

    def render(self, content: Any) -> bytes:
        """Return the body."""
        return _ENCODER.encode(content).encode("ascii")


_ENCODER = json.JSONEncoder(allow_nan=False, separators=(",", ":"))

CLOSE = {"Connection": "close"}
"""Headers of the answer to a request whose body was not read to the end."""


LEFT = 499
"""Status under which a request is counted whose caller disconnected before the answer, as in nginx. Nobody receives it."""


class RequestRefused(Exception):
    """A request that gets no answer. `reason` is a short code."""

    def __init__(self, status: int, reason: str, message: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.reason, self.message, self.headers = status, reason, message, dict(headers or {})

    @classmethod
    def of(cls, error: Overloaded | DeadlinePassed | ImageRefusal) -> RequestRefused:
        """Return the HTTP form of what the classifier refused."""
        if isinstance(error, ImageRefusal):
            return cls(error.status, error.reason, error.message)
        reason = "overloaded" if isinstance(error, Overloaded) else "deadline"
        seconds = error.retry_after if isinstance(error, Overloaded) else 1.0
        return cls(503, reason, f"Not now: {error}.", headers={"Retry-After": str(max(1, round(seconds)))})

    def response(self) -> Response:
        """Return the response: ``{"error": sentence, "reason": code}``."""
        return JsonResponse({"error": self.message, "reason": self.reason}, self.status, self.headers)


def caller_left() -> RequestRefused:
    """Return why a request is dropped whose caller has disconnected."""
    return RequestRefused(LEFT, "left", "The caller has left.", headers=CLOSE)
