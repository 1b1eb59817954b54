"""Published contracts: tables, HBase layout, HTTP API, manifest and settings in; schemas/ and docs/ out.

`make schemas` runs this module.
"""

import json
import sys
from pathlib import Path

from likeness.core.settings import Settings, settings_table
from likeness.index.manifest import Manifest
from likeness.storage.tables import TABLES, Table


def render() -> dict[str, str]:
    """Content of each file of schemas/ by file name."""
    files = {
        f"{table.name}.sql": "".join(f"{sql};\n" for sql in table.ddl(f"likeness.{table.name}")) for table in TABLES
    }
    files["tables.md"] = "# Tables\n\nRendered from `likeness.storage.tables`.\n\n" + "\n".join(map(_page, TABLES))
    files["hbase.md"] = _hbase()
    files["openapi.json"] = _openapi()
    files["manifest.schema.json"] = json.dumps(Manifest.model_json_schema(), indent=2) + "\n"
    return files


def _page(table: Table) -> str:
    columns = "\n".join(f"| {c.name} | {c.type} | {'yes' if c.nullable else 'no'} | {c.doc} |" for c in table.columns)
    parts = f", partitioned by {', '.join(table.partition)}" if table.partition else ""
    return (
        f"## {table.name}\n\n{table.doc}. Key: ({', '.join(table.key)}){parts}.\n\n"
        f"| column | type | nullable | meaning |\n| --- | --- | --- | --- |\n{columns}\n"
    )


def _hbase() -> str:
    from likeness.storage import hbase_layout

    rows = "".join(
        f"| `NAME_{layout.name}` | `{layout.family}` | {layout.key} | {layout.cells} |\n"
        for layout in hbase_layout.TABLE_LAYOUTS
    )
    place = hbase_layout.parse_uri("hbase://host:9090/NAME")
    commands = "\n".join(" ".join(command) for command in hbase_layout.create_commands(place))
    return (
        "# HBase\n\nRendered from `likeness.storage.hbase_layout`. NAME is the end of `keyed.uri`.\n\n"
        f"| table | family | row key | cells |\n| --- | --- | --- | --- |\n{rows}\n"
        f"`likeness hbase-init` creates them; an administrator may run the same commands:\n\n```\n{commands}\n```\n\n"
        "`NAME_marks` is small and needs no split: `create 'NAME_marks', 'm'` in the HBase shell.\n"
    )


def _openapi() -> str:
    from likeness.serving.http.app import create_app
    from likeness.serving.service import Service

    return json.dumps(create_app(Service(Settings())).openapi(), indent=2, ensure_ascii=False) + "\n"


def main(folder: str = "schemas", page: str = "docs/operating.md") -> None:
    """Writes every file, and the table of settings into its place in the documentation.

    Args:
        folder: where the schemas are.
        page: the page with the markers `<!-- settings -->` and `<!-- /settings -->`.
    """
    for name, content in render().items():
        Path(folder, name).write_text(content, encoding="utf-8")
    before, begin, rest = Path(page).read_text(encoding="utf-8").partition("<!-- settings -->\n")
    _, end, after = rest.partition("<!-- /settings -->")
    Path(page).write_text(before + begin + settings_table() + end + after, encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
