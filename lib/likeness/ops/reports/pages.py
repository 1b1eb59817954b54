"""Pages: a template and its values in, HTML out that needs nothing but itself.   [jinja2]"""

from collections.abc import Mapping
from typing import Any

import jinja2

from likeness.core import formatting


def page(template: str, values: Mapping[str, Any]) -> bytes:
    """One page: style and photos are inline, and there is no script."""
    pages = jinja2.Environment(
        loader=jinja2.PackageLoader("likeness.ops.reports", ""),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    pages.filters |= {"size": formatting.size, "counted": formatting.pluralize, "moment": formatting.timestamp}
    # a path that is not UTF-8 must not cost the report
    return pages.get_template(template).render(values).encode("utf-8", "replace")
