"""URIs in the project's form: unescaped as in Hadoop, `file:///absolute/path` for local files."""

import re
from pathlib import Path

from likeness.core.errors import UsageError

_SCHEME = re.compile(r"^[a-zA-Z][a-zA-Z0-9+.-]*:")
_AUTHORITY = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*://[^/]+)(/|$)")
_ELSEWHERE = re.compile(r"^([a-zA-Z][a-zA-Z0-9+.-]*:)?[/\\]")


def canonical(text: str) -> str:
    """Turns a path or URI into an absolute URI without a trailing slash; paths are relative to the working folder.

    `..` in a path is resolved, so that a folder has the same URI from every working folder.
    """
    if text.startswith("file:"):
        path = re.sub(r"^file:/*", "/", text)
    elif _SCHEME.match(text):
        return text.rstrip("/")
    else:
        absolute = Path(text).expanduser().absolute()
        path = str(absolute.resolve() if ".." in absolute.parts else absolute)
    return "file://" + (re.sub(r"(?<=.)/+$", "", path))


def hadoop(uri: str) -> str:
    """Turns a canonical URI into the form of Hadoop and of Iceberg's tables: `file:/path` for local files."""
    return uri.replace("file:///", "file:/", 1)


def scheme(uri: str) -> str:
    """The scheme of a URI in lower case; `file` for a path."""
    match = _SCHEME.match(uri)
    return match.group()[:-1].lower() if match else "file"


def authority(uri: str) -> str:
    """`scheme://host:port` of a URI that has a host.

    Raises:
        UsageError: the URI has no host.
    """
    match = _AUTHORITY.match(uri)
    if not match:
        raise UsageError(f"{uri} has no host; write it as {scheme(uri)}://host:port/path or with a nameservice")
    return match.group(1)


def local_path(uri: str) -> Path:
    """The local path of a file URI.

    Raises:
        ValueError: the scheme is another.
    """
    uri = canonical(uri)
    if scheme(uri) != "file":
        raise ValueError(f"{uri} is not a local path")
    return Path(uri.removeprefix("file://"))


def join(base: str, *parts: str) -> str:
    """Joins parts of a path with single slashes: `base/part/part`."""
    return "/".join([base.rstrip("/"), *(part.strip("/") for part in parts)])


def normalize(path: str) -> str:
    """Removes empty and `.` parts from a relative path, so that each file has one spelling."""
    return "/".join(part for part in path.split("/") if part not in ("", "."))


def is_inside(path: str) -> bool:
    """Whether a relative path of a catalogue or an archive stays inside the folder that it is relative to."""
    anywhere = not path or "\0" in path or _ELSEWHERE.match(path)
    return not anywhere and ".." not in path.replace("\\", "/").split("/")
