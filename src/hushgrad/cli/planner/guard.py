"""Who may speak to the page: this machine's browser, with the token of the address."""

from __future__ import annotations

import hmac
from typing import Any

from starlette.datastructures import MutableHeaders
from starlette.requests import HTTPConnection
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

__all__ = ["Guard"]

_REFUSED = 1008  # of a web socket, by RFC 6455: policy violation


class Guard:
    """ASGI middleware that answers only who holds the token, under this machine's own name.

    The token comes with the first address and is then kept in a cookie that scripts cannot read and
    that other sites' pages do not send. Requests under another host's name are refused, so that
    no site can reach the page by pointing its own name here (DNS rebinding). The page may load and
    send nothing beyond this machine.

    Args:
      app: what is guarded.
      token: secret.
      port: that the page is served on.
    """

    def __init__(self, app: ASGIApp, token: str, port: int) -> None:
        self._app, self._token, self._cookie = app, token, f"hushgrad-planner-{port}"
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        sockets = " ".join(f"ws://{host}" for host in sorted(self._hosts))
        self._policy = (
            "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval'; "
            "style-src 'self' 'unsafe-inline'; img-src 'self' data:; font-src 'self' data:; "
            f"connect-src 'self' {sockets}; frame-ancestors 'none'; base-uri 'self'; "
            "form-action 'self'"
        )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or refuses it."""
        if scope["type"] not in ("http", "websocket"):
            await self._app(scope, receive, send)
            return
        asked = HTTPConnection(scope)
        shown = asked.query_params.get("token", "")
        if asked.headers.get("host") not in self._hosts or not self._of_this_page(asked):
            await self._refuse(scope, receive, send, "this page is served to this machine alone")
            return
        if not (self._holds(shown) or self._holds(asked.cookies.get(self._cookie, ""))):
            await self._refuse(scope, receive, send, "open the address that hushgrad printed")
            return

        async def answer(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._seal(MutableHeaders(scope=message), keep=self._holds(shown))
            await send(message)

        await self._app(scope, receive, answer)

    def _of_this_page(self, asked: HTTPConnection) -> bool:
        origin = asked.headers.get("origin")
        return origin is None or origin.removeprefix("http://") in self._hosts

    def _holds(self, shown: str) -> bool:
        return hmac.compare_digest(shown.encode(), self._token.encode())

    def _seal(self, headers: MutableHeaders, keep: bool) -> None:
        headers["content-security-policy"] = self._policy
        headers["referrer-policy"] = "no-referrer"
        headers["x-content-type-options"] = "nosniff"
        if keep:
            kept = f"{self._cookie}={self._token}; Path=/; HttpOnly; SameSite=Strict"
            headers.append("set-cookie", kept)

    async def _refuse(self, scope: Any, receive: Any, send: Any, why: str) -> None:
        if scope["type"] == "websocket":
            await receive()
            await send({"type": "websocket.close", "code": _REFUSED})
            return
        await PlainTextResponse(f"Refused: {why}.\n", status_code=403)(scope, receive, send)
