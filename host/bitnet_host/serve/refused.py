"""Requests that are not answered, each API's way of saying so."""

from __future__ import annotations

from typing import Any

from bitnet_host.errors import (
    BadArgument,
    BadModel,
    BoardError,
    LinkError,
    OutOfContext,
    UserError,
)

__all__ = ["Refused", "error_body", "refusal"]

_TYPES = {400: "invalid_request_error", 401: "authentication_error", 403: "permission_error",
          404: "not_found_error", 405: "not_found_error", 408: "timeout_error",
          413: "invalid_request_error", 501: "not_supported_error", 503: "unavailable_error"}
_ANTHROPIC = {408: "invalid_request_error", 413: "request_too_large", 405: "not_found_error",
              501: "invalid_request_error", 503: "overloaded_error", 500: "api_error"}


class Refused(Exception):
    """``status`` of the response, a sentence, and what else the error says."""

    def __init__(self, status: int, text: str, kind: str = "", *, retry_after: int = 0,
                 **more: Any) -> None:
        super().__init__(text)
        self.status, self.kind, self.more = status, kind or _TYPES.get(status, "server_error"), more
        self.headers = {"Retry-After": str(retry_after)} if retry_after else {}


def refusal(error: UserError, context: int) -> Refused:
    """What a client hears of an error; ``context`` of the model, in tokens."""
    if isinstance(error, OutOfContext):
        return Refused(400, str(error), "exceed_context_size_error", n_ctx=context,
                       n_prompt_tokens=max(error.tokens, context + 1))
    if isinstance(error, BadArgument | BadModel):
        return Refused(400, str(error))
    if isinstance(error, BoardError | LinkError):
        return Refused(503, str(error), retry_after=5)
    return Refused(500, str(error))


def error_body(refused: Refused, path: str) -> dict[str, Any]:
    """The body of the response, in the form of the API that ``path`` belongs to."""
    text = str(refused)
    if path.startswith("/api/"):
        return {"error": text}
    if path.startswith("/v1/messages"):
        kind = _ANTHROPIC.get(refused.status, refused.kind)
        return {"type": "error", "error": {"type": kind, "message": text} | refused.more}
    return {"error": {"code": refused.status, "message": text, "type": refused.kind,
                      "param": refused.more.get("param")} | refused.more}
