"""Items: what an index holds, each a photo or a region of one; names in, keys out. Data only."""

from typing import NamedTuple

WHOLE_PHOTO = ""
"""The region that is the whole photo."""


class Item(NamedTuple):
    """A photo (`image_id`, hexadecimal SHA-256 of its bytes), or a named `region` of it."""

    image_id: str
    region: str = WHOLE_PHOTO

    @property
    def key(self) -> str:
        """`image_id` of a whole photo, `image_id/region` of a region: what keyed stores sort and look up by."""
        return f"{self.image_id}/{self.region}" if self.region else self.image_id

    @classmethod
    def parse(cls, key: str) -> "Item":
        """The item of a key."""
        image_id, _, region = key.partition("/")
        return cls(image_id, region)


def region_keys(image_id: str) -> tuple[str, str]:
    """The keys between which the regions of an image lie, in the order of their UTF-8 bytes; neither is one of them."""
    return f"{image_id}/", f"{image_id}0"  # "0" is the character after "/"
