"""URIs as the project writes them: `file:///absolute/path` unescaped, as Hadoop does; text in, text out."""

import re
from pathlib import Path

from likeness.core.errors import UsageError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")
_AUTHORITY = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*://[^/]+)(/|$)")
_ELSEWHERE = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]")


def canonical(text: str) -> str:
    """A path or URI as an absolute URI without a trailing slash; a path is taken from the working folder.

    `..` in a path is resolved: the same folder is one URI, from wherever it was named.
    """
    if text.startswith("file:"):
        path = re.sub(r"^file:/*", "/", text)
    elif _SCHEME.match(text):
        return text.rstrip("/")
    else:
        named = Path(text).expanduser().absolute()
        path = str(named.resolve() if ".." in named.parts else named)
    return "file://" + (re.sub(r"(?<=.)/+$", "", path))


def hadoop(uri: str) -> str:
    """A canonical URI as Hadoop writes it, and as it therefore stands in the tables: local ones have one slash."""
    return uri.replace("file:///", "file:/", 1)


def scheme(uri: str) -> str:
    """The scheme of a URI, lower-case; `file` for a bare path."""
    match = _SCHEME.match(uri)
    return match.group()[:-1].lower() if match else "file"


def authority(uri: str) -> str:
    """`scheme://host:port` of a URI that has a host.

    Raises:
        UsageError: it names no host.
    """
    match = _AUTHORITY.match(uri)
    if not match:
        raise UsageError(f"{uri} names no host; write it as {scheme(uri)}://host:port/path or with a nameservice")
    return match.group(1)


def local_path(uri: str) -> Path:
    """The local path of a file URI.

    Raises:
        ValueError: for any other scheme.
    """
    uri = canonical(uri)
    if scheme(uri) != "file":
        raise ValueError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """`base/part/part`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def plain(path: str) -> str:
    """A relative path without empty and `.` parts: one spelling a file."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def inside(path: str) -> bool:
    """Whether a relative path from a catalogue or an archive stays below the folder it is taken from."""
    if not path or "\0" in path or _ELSEWHERE.match(path):
        return False
    return ".." not in path.replace("\\", "/").split("/")
