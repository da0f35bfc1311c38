"""Who may ask the studio what: this machine's own browser, for what lies in the given folders, in moderate amounts.

A page of another site can send requests to 127.0.0.1 through the user's browser. It can't make that browser lie about
Host and Origin, and it doesn't know the token that the printed address holds.
"""

from __future__ import annotations

import secrets
from pathlib import Path
from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hubel.errors import UsageError

LARGEST = 40 * 2**20  # bytes of an upload: a photo of 50 megapixels has less
OWN = ("127.0.0.1", "localhost")
HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; "
    "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-cache",
}


class Refused(Exception):
    """A request that is not answered: HTTP status and a sentence."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Guard:
    """Middleware that lets through what the page itself asks, and puts `HEADERS` on every answer."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self.app, self.token = app, token

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer, or say in a sentence why not."""
        if scope["type"] != "http":  # lifespan; there are no web sockets
            if scope["type"] == "lifespan":
                await self.app(scope, receive, send)
            return
        taken, begun = 0, False

        async def counted() -> Message:
            nonlocal taken
            message = await receive()
            taken += len(message.get("body", b""))
            if taken > LARGEST:
                raise _too_large()
            return message

        async def headed(message: Message) -> None:
            nonlocal begun
            if message["type"] == "http.response.start":
                begun, headers = True, MutableHeaders(scope=message)
                for name, value in HEADERS.items():
                    headers.setdefault(name, value)
            await send(message)

        try:
            self._check(Headers(scope=scope), scope["method"])
            await self.app(scope, counted, headed)
        except Refused as refused:
            if begun:
                raise
            answer = JSONResponse({"error": str(refused)}, refused.status, headers={"Connection": "close"})
            await answer(scope, receive, headed)

    def _check(self, headers: Headers, method: str) -> None:
        host = headers.get("host", "")
        if urlsplit(f"//{host}").hostname not in OWN:
            raise Refused(403, "The studio answers on 127.0.0.1 only: open the address that hubel studio printed.")
        if headers.get("origin", f"http://{host}") != f"http://{host}":
            raise Refused(
                403, "Another site's page may not ask the studio: open the address that hubel studio printed."
            )
        given = headers.get("x-hubel-token", "")
        if method not in ("GET", "HEAD") and not secrets.compare_digest(given.encode(), self.token.encode()):
            raise Refused(
                403, "This tab has no token, so it may only look: open the address that hubel studio printed."
            )
        if headers.get("content-length", "0").isdigit() and int(headers.get("content-length", "0")) > LARGEST:
            raise _too_large()


def _too_large() -> Refused:
    return Refused(413, f"The file is larger than {LARGEST // 2**20} MB: make it smaller first.")


class Places:
    """The given folders, and the runs in them, each known by its path from the folder that holds it.

    Attributes:
        code: the user's own network, as ``FILE.py:CLASS``; no other code is run.
    """

    def __init__(self, *folders: str | Path, code: str | None = None) -> None:
        self.folders, self.code = tuple(Path(folder) for folder in folders), code

    def written(self, weights: Path | None) -> float:
        """When a network was last written: its weights, or the code that is used for it."""
        files = (weights, self.code and Path(self.code.rpartition(":")[0]))
        return max((file.stat().st_mtime for file in files if file and file.exists()), default=0.0)

    def runs(self) -> dict[str, Path]:
        """Name → folder of every run: the given folder itself, or those up to two levels below it."""
        found: dict[str, Path] = {}
        for folder in self.folders:
            for run in [folder, *sorted(folder.glob("*")), *sorted(folder.glob("*/*"))]:
                if any((run / name).is_file() for name in ("log.jsonl", "plan.json")) and self._holds(run):
                    found.setdefault(run.resolve().relative_to(folder.resolve().parent).as_posix(), run)
        return found

    def run(self, name: str) -> Path:
        """The folder of a run.

        Raises:
            UsageError: the given folders hold none of that name.
        """
        runs = self.runs()
        if name not in runs:
            raise UsageError(f"There is no run {name!r} in the given folders: choose one of the list.")
        return runs[name]

    def _holds(self, path: Path) -> bool:
        return any(path.resolve().is_relative_to(folder.resolve()) for folder in self.folders)
