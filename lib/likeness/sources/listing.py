"""A source to its listing: which product shows which photo, where, and what is wrong with the rest."""

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass, field

import pyarrow as pa

from likeness import stores, uris
from likeness.errors import UsageError
from likeness.images import SUFFIXES, BadImage
from likeness.settings import Source
from likeness.sources import catalogues, packed
from likeness.sources.packed import Found
from likeness.stores import Files

ITEM = pa.schema(
    [
        ("product_id", pa.string()),
        ("uri", pa.string()),
        ("category", pa.string()),
        ("attributes", pa.string()),
        ("active", pa.bool_()),
        ("length", pa.int64()),
        ("mtime", pa.int64()),
        ("container", pa.string()),
        ("position", pa.int64()),
    ]
)
"""One listed (product, photo): `container` and `position` say where in a packed file the bytes are."""

UNCATEGORISED = "uncategorised"
_CALTECH = re.compile(r"^\d{3}\.(?=.)")
_CATALOGUE_NAMES = tuple(f"catalogue{suffix}" for suffix in catalogues.SUFFIXES)


@dataclass
class Listing:
    """What a source holds.

    `rejected` are (what, why) pairs for the ledger; `ignored` counts files that are no photos, `unlisted`
    photos that the catalogue does not name.
    """

    items: pa.Table
    rejected: list[tuple[str, BadImage]] = field(default_factory=list)
    ignored: int = 0
    unlisted: int = 0


def read_listing(source: Source) -> Listing:
    """Lists a source.

    Raises:
        UsageError: the source or its catalogue is not there or not readable.
    """
    root = uris.canonical(source.uri)
    files = stores.files(root)
    if not files.exists(root):
        raise UsageError(f"--source {source.uri}: no such file or folder; name a folder, .tar or .parquet")
    listing = Listing(pa.table({name: [] for name in ITEM.names}, schema=ITEM))
    found = _find(files, root, listing)
    catalogue = _catalogue_uri(files, root, source.catalogue)
    rows = _from_catalogue(catalogue, root, found, listing) if catalogue else _from_folders(found, listing)
    listing.items = pa.Table.from_pylist(list(rows), schema=ITEM)
    return listing


def _find(files: Files, root: str, listing: Listing) -> dict[str, Found]:
    """Every photo of the source by its path relative to the root (`x.tar!/member` inside a tar)."""
    found: dict[str, Found] = {}
    if packed.is_packed(root):
        for member in packed.members(files, files.stat(root), listing.rejected):
            found[member.uri.removeprefix(f"{root}!/")] = member
        return found
    for entry in files.walk(root):
        path = entry.uri.removeprefix(f"{root}/")
        if not _encodable(path):
            shown = path.encode("utf-8", "backslashreplace").decode()
            listing.rejected.append((f"{root}/{shown}", BadImage("name_not_utf8", "rename the file")))
        elif packed.is_packed(path) and path not in _CATALOGUE_NAMES:
            for member in packed.members(files, entry, listing.rejected):
                found[member.uri.removeprefix(f"{root}/")] = member
        elif not path.lower().endswith(tuple(SUFFIXES)):
            listing.ignored += path not in _CATALOGUE_NAMES
        elif entry.leaves:
            listing.rejected.append((entry.uri, BadImage("outside_source", "a link that leaves the source")))
        else:
            found[path] = Found(entry.uri, entry.length, entry.mtime)
    return found


def _from_folders(found: dict[str, Found], listing: Listing) -> Iterator[dict[str, object]]:
    for path, photo in found.items():
        inner = path.rpartition("!/")[2]
        folder = inner.rpartition("/")[0].rpartition("/")[2]
        category = photo.category or _CALTECH.sub("", folder) or UNCATEGORISED
        yield _row(photo, photo.product_id or path, category, photo.attributes, True)


def _from_catalogue(
    catalogue: str, root: str, found: dict[str, Found], listing: Listing
) -> Iterator[dict[str, object]]:
    seen: dict[tuple[str, str], tuple[object, ...]] = {}
    used = set()
    for row in catalogues.read(catalogue):
        what = f"{catalogue}#{row.number}"
        if row.error:
            listing.rejected.append((what, BadImage("bad_row", row.error)))
            continue
        if not uris.inside(row.image):
            detail = f"image {row.image!r} leaves the source; only relative paths inside it are opened"
            listing.rejected.append((what, BadImage("outside_source", detail)))
            continue
        path = re.sub(r"/+", "/", row.image.replace("/./", "/").removeprefix("./"))
        photo = found.get(path)
        if photo is None:
            detail = f"image {row.image!r} of product {row.product_id!r} is not in {root}"
            listing.rejected.append((what, BadImage("missing_file", detail)))
            continue
        used.add(path)
        facts = (row.category, row.attributes, row.active)
        before = seen.setdefault((row.product_id, path), facts)
        if before is not facts:
            if before != facts:
                detail = f"product {row.product_id!r} shows {row.image!r} twice with other facts; the first row stands"
                listing.rejected.append((what, BadImage("conflicting_row", detail)))
            continue
        yield _row(photo, row.product_id, row.category, row.attributes, row.active)
    listing.unlisted = len(found) - len(used)


def _row(photo: Found, product_id: str, category: str, attributes: dict[str, str], active: bool) -> dict[str, object]:
    return {
        "product_id": product_id,
        "uri": photo.uri,
        "category": category,
        "attributes": json.dumps(attributes, ensure_ascii=False, sort_keys=True),
        "active": active,
        "length": photo.length,
        "mtime": photo.mtime,
        "container": photo.container,
        "position": photo.position,
    }


def _catalogue_uri(files: Files, root: str, named: str) -> str:
    if named:
        uri = uris.canonical(named)
        if not stores.files(uri).exists(uri):
            raise UsageError(f"--catalogue {named}: no such file; name a CSV, JSON lines or Parquet file")
        return uri
    if packed.is_packed(root):
        return ""
    here = files.names(root)
    return next((uris.join(root, name) for name in _CATALOGUE_NAMES if name in here), "")


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
