"""Which tables a server has, and in whose order each is read."""

from collections import defaultdict

from reaper.adapters.mysql.checksum import Column, Table
from reaper.adapters.mysql.connection import Ask, Row
from reaper.workflow.server import SCHEMA

_ELSEWHERE = f"('mysql', 'sys', 'information_schema', 'performance_schema', '{SCHEMA}')"

_TABLES = (
    "SELECT table_schema AS s, table_name AS t, COALESCE(engine, '?') AS engine, table_type AS kind,"
    " COALESCE(table_rows, 0) AS row_count, COALESCE(data_length, 0) AS size FROM information_schema.tables"
    f" WHERE table_schema NOT IN {_ELSEWHERE} AND table_type NOT IN ('VIEW', 'SYSTEM VIEW', 'TEMPORARY')"
)
_COLUMNS = (
    "SELECT table_schema AS s, table_name AS t, column_name AS name, data_type AS type, column_type AS declared,"
    " COALESCE(character_set_name, '') AS charset, COALESCE(collation_name, '') AS collation,"
    " is_nullable AS nullable, extra, COALESCE(generation_expression, '') AS generated_as"
    f" FROM information_schema.columns WHERE table_schema NOT IN {_ELSEWHERE}"
    " ORDER BY table_schema, table_name, ordinal_position"
)
_KEYS = (
    "SELECT table_schema AS s, table_name AS t, index_name AS name, column_name AS column_name, sub_part AS part,"
    " nullable, collation AS direction FROM information_schema.statistics"
    f" WHERE non_unique = 0 AND index_type = 'BTREE' AND table_schema NOT IN {_ELSEWHERE}"
    " ORDER BY table_schema, table_name, index_name <> 'PRIMARY', index_name, seq_in_index"
)


def read_tables(ask: Ask) -> dict[str, Table]:
    """Every table with rows of its own outside the system schemas and reaper's own, by title.

    Metadata are not part of a read view: they are as of now.
    """
    columns: dict[tuple[str, str], list[Column]] = defaultdict(list)
    for row in ask(_COLUMNS):
        columns[row["s"], row["t"]].append(_column(row))
    keys: dict[tuple[str, str], dict[str, list[Row]]] = defaultdict(lambda: defaultdict(list))
    for row in ask(_KEYS):
        keys[row["s"], row["t"]][str(row["name"])].append(row)
    tables = (_table(row, columns[row["s"], row["t"]], keys[row["s"], row["t"]]) for row in ask(_TABLES))
    return {table.title: table for table in tables}


def _column(row: Row) -> Column:
    return Column(
        name=str(row["name"]),
        type=_text(row["type"]).lower(),
        declared=_text(row["declared"]),
        charset=_text(row["charset"]),
        collation=_text(row["collation"]),
        nullable=_text(row["nullable"]),
        extra=_text(row["extra"]),
        generated_as=_text(row["generated_as"]),
    )


def _table(row: Row, columns: list[Column], keys: dict[str, list[Row]]) -> Table:
    by_name = {column.name: column for column in columns}
    index = next((name for name, parts in keys.items() if _orders_every_row(parts, by_name)), None)
    key = tuple(by_name[str(part["column_name"])] for part in keys[index]) if index else ()
    return Table(
        schema=str(row["s"]),
        name=str(row["t"]),
        engine=str(row["engine"]),
        kind=str(row["kind"]),
        columns=tuple(columns),
        index=index,
        key=key,
        rows=int(row["row_count"]),
        size_bytes=int(row["size"]),
    )


def _orders_every_row(parts: list[Row], columns: dict[str, Column]) -> bool:
    """True for a unique index without NULL, prefix, expression or descending part, over types that order alike."""
    first = columns.get(str(parts[0]["column_name"]))
    return (first is not None and first.leads) and all(
        part["part"] is None
        and part["nullable"] != "YES"
        and part["direction"] == "A"
        and (column := columns.get(str(part["column_name"]))) is not None
        and column.orders
        and column.is_data
        for part in parts
    )


def _text(value: object) -> str:
    """MySQL has some of these columns as BLOB (longtext of utf8 binary), which arrives as bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
