"""The published contracts are what the code says."""

from pathlib import Path

import pyarrow as pa
import pytest

from likeness.ops import contracts
from likeness.storage.tables import FEATURES, TABLES, Table

FOLDER = Path(__file__).parents[2] / "schemas"


def test_the_folder_holds_what_is_rendered() -> None:
    rendered = contracts.render()
    there = {path.name: path.read_text(encoding="utf-8") for path in FOLDER.iterdir()}
    assert {name: there.get(name) for name in rendered} == rendered, "run `make schemas`"


def test_main_writes_every_file(tmp_path: Path) -> None:
    contracts.main(str(tmp_path))
    assert {path.name: path.read_text(encoding="utf-8") for path in tmp_path.iterdir()} == contracts.render()


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_a_table_is_sound(table: Table) -> None:
    names = [column.name for column in table.columns]
    assert len(set(names)) == len(names)
    assert set(table.key) <= set(names)
    assert set(table.partition) <= set(names)
    assert not any(column.nullable and column.default is None for column in table.columns if column.name in table.key)
    for column in table.columns:
        assert column.doc
        assert "'" not in column.doc, "it would end the comment in the DDL"


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_field_ids_are_positions_then_nested_ones_then_those_of_later_columns(table: Table) -> None:
    schema = table.arrow()
    assert schema.names == [column.name for column in table.columns]
    first = sum(not column.added for column in table.columns)
    nested = [field.type.value_field for field in schema if pa.types.is_list(field.type)]
    ids = [int(field.metadata[b"PARQUET:field_id"]) for field in [*schema][:first] + nested + [*schema][first:]]
    assert ids == list(range(1, len(ids) + 1))
    assert not any(column.added for column in table.columns[:first])
    assert all(column.nullable for column in table.columns[first:])


@pytest.mark.parametrize("table", TABLES, ids=lambda table: table.name)
def test_the_ddl_names_every_column_and_says_what_may_be_null(table: Table) -> None:
    create, *alter = table.ddl("a.b")
    assert create.startswith("CREATE TABLE IF NOT EXISTS a.b (\n")
    lines = create.split("(\n")[1].split("\n)")[0].split(",\n")
    lines += [statement.removeprefix("ALTER TABLE a.b ADD COLUMN ") for statement in alter]
    assert len(lines) == len(table.columns)
    for line, column in zip(lines, table.columns, strict=True):
        assert line.split()[0] == column.name
        assert ("NOT NULL" in line) != column.nullable


def test_the_region_of_a_vector_has_the_last_field_id() -> None:
    schema = FEATURES.arrow()
    assert schema.field("vector").type.value_field.metadata[b"PARQUET:field_id"] == b"6"
    assert schema.field("region").metadata[b"PARQUET:field_id"] == b"7"
