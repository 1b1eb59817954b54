"""Caching over HTTP: contents in; responses with an ETag, or 304 for callers who have them, out.   [fastapi]"""

import gzip
import hashlib
from dataclasses import dataclass
from functools import cached_property

from fastapi import Request, Response


@dataclass(frozen=True)
class Content:
    """A body that callers may keep, with its media type and further headers."""

    body: bytes
    media_type: str
    headers: tuple[tuple[str, str], ...] = ()

    @cached_property
    def etag(self) -> str:
        """Weak, since a body may be sent compressed or not."""
        return f'W/"{hashlib.sha256(self.body).hexdigest()[:32]}"'

    @cached_property
    def compressed(self) -> bytes:
        """The body as gzip, made once."""
        return gzip.compress(self.body, mtime=0)


def cacheable(request: Request, content: Content, private: bool, max_age_s: int = 0) -> Response:
    """The response with a content, or 304 if the request names its ETag.

    Args:
        request: its `If-None-Match` names what the caller has.
        content: what is asked for.
        private: no cache shared by several callers may keep it.
        max_age_s: seconds for which it may be used without asking again.
    """
    age = f"max-age={max_age_s}" if max_age_s else "no-cache"
    headers = {"ETag": content.etag, "Cache-Control": f"{'private' if private else 'public'}, {age}"}
    headers |= {"Vary": "Accept-Encoding", "X-Content-Type-Options": "nosniff", **dict(content.headers)}
    if _names(request.headers.get("if-none-match", ""), content.etag):
        return Response(status_code=304, headers=headers)
    return Response(content.body, media_type=content.media_type, headers=headers)


def static(request: Request, content: Content) -> Response:
    """The response with a content that stays as it is while the service runs: compressed once, for all requests."""
    response = cacheable(request, content, private=False)
    if response.status_code == 200 and "gzip" in request.headers.get("accept-encoding", ""):
        response.headers["Content-Encoding"] = "gzip"
        response.body = content.compressed
        response.headers["Content-Length"] = str(len(response.body))
    return response


def _names(header: str, etag: str) -> bool:
    """Whether `If-None-Match` names an ETag, by the weak comparison of RFC 9110."""
    tags = {tag.strip().removeprefix("W/") for tag in header.split(",")}
    return "*" in tags or etag.removeprefix("W/") in tags
