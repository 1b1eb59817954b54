"""Items: what has a vector, each a whole photo or a region of one."""

from typing import NamedTuple

WHOLE_PHOTO = ""
"""The region of a whole photo."""


class Item(NamedTuple):
    """A photo (`image_id`, hexadecimal SHA-256 of its bytes), or a named `region` of it."""

    image_id: str
    region: str = WHOLE_PHOTO

    @property
    def key(self) -> str:
        """The key of the item in keyed stores: `image_id` of a whole photo, `image_id/region` of a region."""
        return f"{self.image_id}/{self.region}" if self.region else self.image_id

    @classmethod
    def parse(cls, key: str) -> "Item":
        """Parses the key of an item."""
        image_id, _, region = key.partition("/")
        return cls(image_id, region)


def region_keys(image_id: str) -> tuple[str, str]:
    """Exclusive bounds of the keys of all regions of an image, in the order of UTF-8 bytes."""
    return f"{image_id}/", f"{image_id}0"  # "0" is the character after "/"
