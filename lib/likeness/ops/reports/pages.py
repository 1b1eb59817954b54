"""HTML pages of the reports: a template and its values in, a page without external files out.   [jinja2]"""

import base64

import jinja2

from likeness.core import formatting
from likeness.images.contact_sheet import thumbnail
from likeness.images.image import encode_image

_SIDE = 140


def render_page(template: str, context: object) -> bytes:
    """Renders a template with the fields of a dataclass; style and photos are inline, and there is no script."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("likeness.ops.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"size": formatting.size, "counted": formatting.pluralize}
    environment.filters |= {"moment": formatting.timestamp, "duration": formatting.duration}
    # a path that is not UTF-8 must not cost the report
    return environment.get_template(template).render(vars(context)).encode("utf-8", "replace")


def inline_thumbnail(photo: bytes | None) -> str | None:
    """A photo as the base64 of a small JPEG; None if there is no photo, or it cannot be decoded."""
    small = thumbnail(photo, _SIDE) if photo else None
    return base64.b64encode(encode_image(small, "JPEG")).decode() if small else None
