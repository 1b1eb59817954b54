"""Lists a source: which product shows which photo, where the photo is, and what is rejected."""

import json
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import pyarrow as pa

from likeness import storage
from likeness.catalog.sources import catalogues, packed
from likeness.catalog.sources.packed import PRODUCT_COLUMNS, Skipped, SourceImage
from likeness.core import uris
from likeness.core.errors import UsageError
from likeness.core.settings import Source
from likeness.images.image import SUFFIXES
from likeness.storage import Files

_TEXT, _WHOLE = pa.string(), pa.int64()
ITEM = pa.schema(
    {"product_id": _TEXT, "uri": _TEXT, "category": _TEXT, "attributes": _TEXT, "active": pa.bool_()}
    | {"length": _WHOLE, "mtime": _WHOLE, "container": _TEXT, "position": _WHOLE}
)
"""A listed pair of product and photo; `container` and `position` locate the bytes in a packed file."""

UNCATEGORISED = "uncategorised"
_CALTECH = re.compile(r"^\d{3}\.(?=.)")
_CATALOGUE_NAMES = tuple(f"catalogue{suffix}" for suffix in catalogues.SUFFIXES)
_COMPRESSED = "a compressed tar cannot be read by position; unpack it to a plain .tar"


@dataclass
class Listing(Skipped):
    """The listed `items` of a source, as a table of ITEM; `unlisted` is the number of photos not in the catalogue."""

    items: pa.Table = field(default_factory=ITEM.empty_table)
    unlisted: int = 0


def check_source(source: Source) -> None:
    """Checks a source before a run starts anything.

    Raises:
        UsageError: no source is given, it does not exist, or it is a compressed tar.
    """
    if not source.uri:
        raise UsageError("no source is given; name a folder, .tar or .parquet file of photos with --source")
    root = uris.canonical(source.uri)
    if packed.is_compressed(root):
        raise UsageError(f"--source {source.uri}: {_COMPRESSED}")
    if not storage.files(root).exists(root):
        raise UsageError(f"--source {source.uri}: no such file or folder; name a folder, .tar or .parquet file")


def read_listing(source: Source) -> Listing:
    """Lists a source.

    Raises:
        UsageError: the source or its catalogue cannot be read, or the source is a compressed tar.
    """
    check_source(source)
    root = uris.canonical(source.uri)
    files = storage.files(root)
    listing = Listing()
    try:
        catalogue = _catalogue_uri(files, root, source.catalogue)
        photos = _find_photos(files, root, catalogue, listing)
    except OSError as error:  # a folder that cannot be listed must not count as empty
        raise UsageError(f"--source {source.uri} cannot be listed: {error}; make it readable") from None
    items = list(_from_catalogue(catalogue, root, photos, listing) if catalogue else _from_folders(photos))
    columns = {name: [getattr(item, name) for item in items] for name in ITEM.names}
    columns["attributes"] = [json.dumps(each, ensure_ascii=False, sort_keys=True) for each in columns["attributes"]]
    listing.items = pa.table(columns, schema=ITEM)
    return listing


def _find_photos(files: Files, root: str, catalogue: str, listing: Listing) -> dict[str, SourceImage]:
    """All photos of a source by path relative to its root (`x.tar!/member` in a tar)."""
    photos: dict[str, SourceImage] = {}
    one_file = packed.is_packed(root) and not files.names(root)  # Spark writes folders called x.parquet
    for entry in [files.stat(root)] if one_file else files.walk(root):
        path = entry.uri.removeprefix(f"{root}/")
        archive = packed.is_packed(path) and path not in _CATALOGUE_NAMES
        if entry.uri == catalogue != root:
            continue
        if not (archive or packed.is_compressed(path) or path.lower().endswith(tuple(SUFFIXES))):
            listing.ignored += 1
        elif not catalogues.encodable(path):
            escaped = path.encode("utf-8", "backslashreplace").decode()
            listing.reject(f"{root}/{escaped}", "name_not_utf8", "rename the file")
        elif entry.outside:
            listing.reject(entry.uri, "outside_source", "a link that leaves the source")
        elif packed.is_compressed(path):
            listing.reject(entry.uri, "compressed", _COMPRESSED)
        elif archive:
            for member in packed.members(files, entry, listing):
                name = member.uri.removeprefix(f"{root}!/" if one_file else f"{root}/")
                listing.ignored += name in photos  # of two the later one counts, as when a tar is unpacked
                photos[name] = member
        else:
            photos[path] = SourceImage(entry.uri, entry.length, entry.mtime)
    return photos


def _from_folders(photos: dict[str, SourceImage]) -> Iterator[SourceImage]:
    for path, photo in photos.items():
        inner = photo.uri.removeprefix(f"{photo.container}!/") if photo.container else path
        folder = _parent(inner) or _parent(path.removesuffix(f"!/{inner}"))
        category = photo.category or _CALTECH.sub("", folder) or UNCATEGORISED
        yield replace(photo, product_id=photo.product_id or path, category=category)


def _parent(path: str) -> str:
    """The name of a file's folder; empty at the top."""
    return uris.normalize(path).rpartition("/")[0].rpartition("/")[2]


def _from_catalogue(
    catalogue: str, root: str, photos: dict[str, SourceImage], listing: Listing
) -> Iterable[SourceImage]:
    items: dict[tuple[str, str], SourceImage] = {}
    for row in catalogues.read(catalogue):
        what, image, path = f"{catalogue}#{row.number}", f"image {row.image!r}", uris.normalize(row.image)
        if row.error:
            listing.reject(what, "bad_row", row.error)
        elif not uris.is_inside(row.image):
            detail = f"{image} leaves the source; only relative paths inside it are opened"
            listing.reject(what, "outside_source", detail)
        elif path not in photos:
            listing.reject(what, "missing_file", f"{image} of product {row.product_id!r} is not in {root}")
        else:
            item = replace(photos[path], **{name: getattr(row, name) for name in PRODUCT_COLUMNS})
            if items.setdefault((row.product_id, path), item) != item:
                detail = f"product {row.product_id!r} shows {row.image!r} twice with other values; the first row counts"
                listing.reject(what, "conflicting_row", detail)
    listing.unlisted = len(photos) - len({path for _, path in items})
    return items.values()


def _catalogue_uri(files: Files, root: str, configured: str) -> str:
    if configured:
        uri = uris.canonical(configured)
        if not storage.files(uri).exists(uri):
            raise UsageError(f"--catalogue {configured}: no such file; name a CSV, JSON lines or Parquet file")
        return uri
    names = files.names(root)
    return next((uris.join(root, name) for name in _CATALOGUE_NAMES if name in names), "")
