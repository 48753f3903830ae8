"""Error responses of the server: one format, a fixed set of codes."""

from __future__ import annotations

from aiohttp import web

STATUS = {
    "bad_request": 400,
    "unauthorized": 401,
    "forbidden": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "too_large": 413,
    "unreadable": 422,
    "busy": 429,
    "internal": 500,
    "timeout": 504,
    "storage_full": 507,
}
"""Code: HTTP status."""


class Refusal(Exception):
    """A request that the server refuses.

    code: one of ``STATUS``; message: one line: where, what is wrong, what to do.
    """

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code, self.message = code, message

    def body(self) -> dict[str, str]:
        """``{"code": ..., "message": ...}``."""
        return {"code": self.code, "message": self.message}

    def response(self) -> web.Response:
        """``{"error": {"code": ..., "message": ...}}`` with the code's HTTP status."""
        return web.json_response({"error": self.body()}, status=STATUS[self.code])
