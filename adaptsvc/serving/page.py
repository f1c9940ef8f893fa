"""/ui: the page for people, as files that are read once; it knows nothing of what the page asks for.

The page is the same for everybody and holds no data, so it needs no key where the service has keys; each of
its calls does. It may load nothing but these files, run no inline script, and talk to this service alone:
its Content-Security-Policy says so. Third-party files lie unaltered in ui/vendor, with their licences.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from fastapi import FastAPI, Request, Response

FOLDER = Path(__file__).with_name("ui")
PATH = "/ui"
START = "index.html"
TYPES: Mapping[str, str] = {
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".svg": "image/svg+xml",
}
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob: data:",  # the image that was dropped, and the icons within the style sheet
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types lit-html",
    )
)


@dataclass(frozen=True, slots=True)
class Asset:
    """A file of the page, and how it is answered."""

    body: bytes
    headers: Mapping[str, str]


def assets(folder: Path = FOLDER) -> dict[str, Asset]:
    """Every file of the page by the path it is asked for at; licences are not served."""
    found = {
        PATH if path.name == START else f"{PATH}/{path.relative_to(folder).as_posix()}": path
        for path in sorted(folder.rglob("*"))
        if path.suffix in TYPES
    }
    return {url: _asset(path) for url, path in found.items()}


def add_page(app: FastAPI, files: Mapping[str, Asset]) -> None:
    """Add the routes of the page to the application.

    Args:
        app: the service's.
        files: of `assets`.
    """

    async def answer(request: Request) -> Response:
        asset = files[request.url.path]
        if request.headers.get("if-none-match") == asset.headers["etag"]:
            return Response(status_code=304, headers=dict(asset.headers))
        return Response(asset.body, headers=dict(asset.headers))

    for path in files:
        app.add_api_route(path, answer, methods=["GET", "HEAD"], include_in_schema=False)


def _asset(path: Path) -> Asset:
    body = path.read_bytes()
    headers = {
        "content-type": TYPES[path.suffix],
        "content-security-policy": POLICY,
        "cross-origin-opener-policy": "same-origin",
        "cache-control": "no-cache",  # kept, and asked for by its tag each time
        "etag": f'"{hashlib.sha256(body).hexdigest()[:32]}"',
    }
    return Asset(body, headers)
