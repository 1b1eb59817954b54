"""Sources: a folder, a tar or Parquet files of photos, with or without a catalogue, to one listing.

`read_listing` opens no photo; `Reader` gives the bytes of one listed item.
"""

from likeness.catalog.sources.listing import ITEM, Listing, check_source, read_listing
from likeness.catalog.sources.packed import Reader

__all__ = ["ITEM", "Listing", "Reader", "check_source", "read_listing"]
