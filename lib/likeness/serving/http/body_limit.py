"""Bodies of requests: those that are too large or too slow are answered before an application reads them in full."""

import asyncio
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Scope, Receive, Send], Awaitable[None]]

_PATIENCE_S = 30.0


class BodyLimitMiddleware:
    """ASGI middleware.

    `refuse(code, detail)` gives the response for `too_large` and `slow`: an ASGI application.
    """

    def __init__(self, app: Application, most: int, refuse: Callable[[str, str], Application]) -> None:
        self._app, self._most, self._refuse = app, most, refuse

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Passes a request on, and a refusal in place of its answer where its body is refused meanwhile."""
        if scope["type"] != "http":
            return await self._app(scope, receive, send)
        refused, taken, begun = "", 0, False

        async def take() -> Message:
            nonlocal refused, taken
            try:
                message = await asyncio.wait_for(receive(), None if begun else _PATIENCE_S)
            except TimeoutError:
                refused = "slow"
                return {"type": "http.disconnect"}
            taken += len(message.get("body", b""))
            if taken > self._most:
                refused = "too_large"
                return {"type": "http.disconnect"}
            return message

        async def give(message: Message) -> None:
            nonlocal begun
            begun = True
            if not refused:
                await send(message)

        length = dict(scope["headers"]).get(b"content-length", b"")
        if length.isdigit() and int(length) > self._most:
            refused = "too_large"
        else:
            try:
                await self._app(scope, take, give)
            except Exception:
                if not refused:
                    raise
        if refused:
            detail = f"a body of at most {self._most} bytes is taken" if refused == "too_large" else "send it faster"
            await self._refuse(refused, detail)(scope, receive, send)
        return None
