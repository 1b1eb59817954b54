"""Sources: a folder, a tar or Parquet files of photos, with or without a catalogue of products.

`read_listing` lists a source without opening a photo; `Reader` reads the bytes of a listed photo.
"""

from likeness.catalog.sources.listing import ITEM, Listing, check_source, read_listing
from likeness.catalog.sources.packed import Reader

__all__ = ["ITEM", "Listing", "Reader", "check_source", "read_listing"]
