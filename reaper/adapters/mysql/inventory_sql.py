"""The statements behind an inventory, in both flavours.

Each answers with rows of a schema (s), a name (n) and a SHA-256 (d) that the server computes of all that makes
the definition: little travels, and AUTO_INCREMENT and statistics, which may differ, are not among it. Column
names are those of information_schema in MariaDB 10.11 and in the MySQL 8.0 manual.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from reaper.domain.parity import Kind

SKIPPED = "'mysql', 'sys', 'information_schema', 'performance_schema', 'reaper'"  # the servers' own, and reaper's
_IS = "information_schema."


@dataclass(frozen=True, kw_only=True)
class Digests:
    """A statement that answers with one digest for each object."""

    kind: Kind
    sql: str  # ends where another condition may follow
    grouping: str
    table: str  # an expression for what an object belongs to, by which the work is shared

    def share(self, number: int, count: int) -> str:
        """The statement about one of `count` shares, chosen by the table's name: MariaDB opens no other tables."""
        share = f" AND MOD(CRC32({self.table}), {count}) = {number}" if count > 1 else ""
        return f"{self.sql}{share}{self.grouping}"


@dataclass(frozen=True, kw_only=True)
class Words:
    """One flavour's statements."""

    time_limit: str  # the session variable that ends a long statement
    time_units_per_s: int
    schemata: str
    objects: tuple[Digests, ...]  # views first
    grant_tables: tuple[str, ...]
    components: str | None
    timezones: str
    filter_variables: tuple[str, ...]
    filters: tuple[str, ...]  # of the performance schema: without it they answer nothing
    replica_status: str
    binlog_status: Callable[[str], str] = field(repr=False)  # of a version


def _name(column: str) -> str:
    # Names that differ by case only are two objects where files are told apart by case.
    return f"CONVERT({column} USING utf8mb4) COLLATE utf8mb4_bin"


def _digest(
    kind: Kind,
    source: str,
    columns: str,
    *,
    schema: str = "table_schema",
    name: str = "table_name",
    table: str | None = None,
    order: str = "1",
    only: str = "",
) -> Digests:
    """`columns` of each (schema, name), in order, as one digest; QUOTE tells NULL from everything else."""
    row = f"CONCAT_WS(',', {', '.join(f'QUOTE({column})' for column in columns.split())})"
    return Digests(
        kind=kind,
        sql=(
            f"SELECT {_name(schema)} AS s, {_name(name)} AS n, SHA2(GROUP_CONCAT({row} ORDER BY {order}), 256) AS d"
            f" FROM {source} WHERE {schema} NOT IN ({SKIPPED})" + (f" AND {only}" if only else "")
        ),
        grouping=" GROUP BY s, n",
        table=f"CONCAT({schema}, '.', {table or name})",
    )


TABLES = f"SELECT COUNT(*) AS tables FROM information_schema.tables WHERE table_schema NOT IN ({SKIPPED})"
# A locked view is missing from information_schema.views without a warning (10.11); a locked table warns.
VIEWS = (
    f"SELECT {_name('table_schema')} AS s, {_name('table_name')} AS n FROM information_schema.tables"
    f" WHERE table_schema NOT IN ({SKIPPED}) AND table_type = 'VIEW'"
)
_COLUMNS = (
    "column_name column_default is_nullable column_type character_set_name collation_name extra column_comment"
    " generation_expression"
)
_INDEXES = "index_name non_unique seq_in_index column_name collation sub_part index_type index_comment"
_IN_INDEX = "index_name, seq_in_index"
_VIEW = "view_definition check_option definer security_type character_set_client collation_connection"
_ROUTINE = (
    "routine_definition dtd_identifier definer security_type sql_mode is_deterministic sql_data_access"
    " character_set_client collation_connection database_collation routine_comment"
)
_ROUTINE_NAME = "CONCAT({name}, ' (', LOWER({type}), ')')"
_SHARED = (
    _digest(Kind.TABLE, _IS + "tables", "table_type engine table_collation create_options table_comment"),
    _digest(
        Kind.TABLE,
        _IS + "partitions",
        "partition_name subpartition_name partition_method subpartition_method partition_expression"
        " subpartition_expression partition_description partition_comment",
        order="partition_ordinal_position, subpartition_ordinal_position",
        only="partition_name IS NOT NULL",
    ),
    _digest(
        Kind.TABLE,
        _IS + "key_column_usage",
        "constraint_name column_name referenced_table_schema referenced_table_name referenced_column_name",
        order="constraint_name, ordinal_position",
        only="referenced_table_name IS NOT NULL",
    ),
    _digest(
        Kind.TABLE,
        _IS + "referential_constraints",
        "constraint_name unique_constraint_schema referenced_table_name match_option update_rule delete_rule",
        schema="constraint_schema",
        order="constraint_name",
    ),
    _digest(
        Kind.TRIGGER,
        _IS + "triggers",
        "event_manipulation event_object_table action_order action_statement action_timing sql_mode definer"
        " character_set_client collation_connection database_collation",
        schema="trigger_schema",
        name="trigger_name",
        table="event_object_table",
    ),
)
_ZONES = (
    "SELECT (SELECT COUNT(*) FROM mysql.time_zone_name) AS zones,"
    " (SELECT BIT_XOR(CRC32(CONCAT_WS('|', Name, Time_zone_id))) FROM mysql.time_zone_name)"
    " ^ (SELECT COALESCE(BIT_XOR(CRC32(CONCAT_WS('|', Time_zone_id, Transition_time, Transition_type_id))), 0)"
    " FROM mysql.time_zone_transition)"
    " ^ (SELECT COALESCE(BIT_XOR(CRC32(CONCAT_WS('|', Time_zone_id, Transition_type_id, `Offset`, Is_DST))), 0)"
    " FROM mysql.time_zone_transition_type) AS digest"
)


def _schemata(columns: str) -> str:
    row = ", ".join(f"QUOTE({column})" for column in columns.split())
    return (
        f"SELECT {_name('schema_name')} AS n, SHA2(CONCAT_WS(',', {row}), 256) AS d"
        f" FROM information_schema.schemata WHERE schema_name NOT IN ({SKIPPED})"
    )


MARIADB = Words(
    time_limit="max_statement_time",
    time_units_per_s=1,
    schemata=_schemata("default_character_set_name default_collation_name schema_comment"),
    objects=(
        _digest(Kind.VIEW, _IS + "views", f"{_VIEW} algorithm"),
        *_SHARED,
        _digest(Kind.TABLE, _IS + "columns", _COLUMNS, order="ordinal_position"),
        _digest(Kind.TABLE, _IS + "statistics", f"{_INDEXES} ignored", order=_IN_INDEX),
        _digest(
            Kind.TABLE,
            _IS + "check_constraints",
            "constraint_name level check_clause",
            schema="constraint_schema",
            order="level, constraint_name",
        ),
        _digest(
            Kind.ROUTINE,
            "mysql.proc",
            "param_list returns body definer security_type sql_mode is_deterministic sql_data_access aggregate"
            " character_set_client collation_connection db_collation comment",
            schema="db",
            name=_ROUTINE_NAME.format(name="name", type="type"),
        ),
    ),
    grant_tables=(
        "global_priv",
        "db",
        "tables_priv",
        "columns_priv",
        "procs_priv",
        "proxies_priv",
        "roles_mapping",
    ),
    components=None,
    timezones=_ZONES,
    filter_variables=(
        "replicate_do_db",
        "replicate_ignore_db",
        "replicate_do_table",
        "replicate_ignore_table",
        "replicate_wild_do_table",
        "replicate_wild_ignore_table",
        "replicate_rewrite_db",
    ),
    filters=(),
    replica_status="SHOW ALL SLAVES STATUS",
    binlog_status=lambda _version: "SHOW MASTER STATUS",
)


def _mysql_binlog_status(version: str) -> str:
    """8.2 renamed the statement, 8.4 dropped the old name (the 8.4 manual; 8.0.43 answers 1064 to the new one)."""
    first, second = (int(n) for n in version.split(".")[:2])
    return "SHOW BINARY LOG STATUS" if (first, second) >= (8, 2) else "SHOW MASTER STATUS"


MYSQL = Words(
    time_limit="max_execution_time",  # of SELECT only, which is all that takes long here
    time_units_per_s=1000,
    schemata=_schemata("default_character_set_name default_collation_name default_encryption"),
    objects=(
        _digest(Kind.VIEW, _IS + "views", _VIEW),
        *_SHARED,
        _digest(Kind.TABLE, _IS + "columns", f"{_COLUMNS} srs_id", order="ordinal_position"),
        _digest(Kind.TABLE, _IS + "statistics", f"{_INDEXES} is_visible expression", order=_IN_INDEX),
        _digest(
            Kind.TABLE,
            "(SELECT t.table_schema, t.table_name, t.constraint_name, t.enforced, c.check_clause"
            " FROM information_schema.table_constraints t JOIN information_schema.check_constraints c"
            " ON c.constraint_schema = t.constraint_schema AND c.constraint_name = t.constraint_name"
            " WHERE t.constraint_type = 'CHECK') AS checks",
            "constraint_name enforced check_clause",
            order="constraint_name",
        ),
        _digest(
            Kind.ROUTINE,
            _IS + "routines",
            _ROUTINE,
            schema="routine_schema",
            name=_ROUTINE_NAME.format(name="routine_name", type="routine_type"),
        ),
        _digest(
            Kind.ROUTINE,
            _IS + "parameters",
            "ordinal_position parameter_mode parameter_name dtd_identifier character_set_name collation_name",
            schema="specific_schema",
            name=_ROUTINE_NAME.format(name="specific_name", type="routine_type"),
            order="ordinal_position",
        ),
    ),
    grant_tables=(
        "user",
        "db",
        "tables_priv",
        "columns_priv",
        "procs_priv",
        "proxies_priv",
        "global_grants",
        "role_edges",
        "default_roles",
    ),
    components="SELECT component_urn AS n FROM mysql.component",
    timezones=_ZONES,
    filter_variables=(),
    filters=(
        "SELECT filter_name AS n, filter_rule AS v FROM performance_schema.replication_applier_global_filters",
        "SELECT CONCAT_WS(' ', filter_name, NULLIF(channel_name, '')) AS n, filter_rule AS v"
        " FROM performance_schema.replication_applier_filters",
    ),
    replica_status="SHOW REPLICA STATUS",
    binlog_status=_mysql_binlog_status,
)
