"""The server variables that a master and its successor must have in common, and why (E18).

Left out is what differs by nature: identity, addresses, paths, roles (read_only, semi-sync's switches),
positions. Names of both flavours and of their versions stand side by side; a server that does not have
one is not asked for it. Meanings are those of the MySQL 8.0/8.4 and MariaDB 10.11 manuals.
"""

from dataclasses import dataclass
from enum import StrEnum


class Weight(StrEnum):
    """When a variable's difference stops a run."""

    BLOCKS = "blocks"
    NOTES = "notes"
    BLOCKS_IF_SMALLER = "blocks if smaller"  # a capacity: more of it harms nobody


@dataclass(frozen=True, kw_only=True)
class Watched:
    """A variable that matters."""

    name: str
    weight: Weight
    why: str


_BLOCKS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("other statements are accepted, or mean something else", ("sql_mode", "old_mode", "innodb_strict_mode")),
    ("text without a character set of its own is stored otherwise", ("character_set_server", "collation_server")),
    ("text of clients is read otherwise", ("character_set_client_handshake", "skip_character_set_client_handshake")),
    ("names are found or not found by their case", ("lower_case_table_names",)),
    ("times of clients are other times", ("time_zone", "system_time_zone", "explicit_defaults_for_timestamp")),
    ("names of days and weeks are others", ("lc_time_names", "default_week_format")),
    ("transactions see and lock other rows", ("transaction_isolation", "tx_isolation", "autocommit")),
    ("a time-out undoes another part of a transaction", ("innodb_rollback_on_timeout", "innodb_lock_wait_timeout")),
    ("statements wait or are ended after another time", ("lock_wait_timeout", "max_execution_time")),
    ("statements are ended after another time", ("max_statement_time",)),
    ("sessions of clients are closed at another time", ("wait_timeout", "interactive_timeout")),
    ("results of clients are cut or rounded otherwise", ("group_concat_max_len", "div_precision_increment")),
    ("generated keys collide or have gaps", ("auto_increment_increment", "auto_increment_offset")),
    ("generated keys are given out in another order", ("innodb_autoinc_lock_mode",)),
    ("new tables get another engine or format", ("default_storage_engine", "innodb_default_row_format")),
    ("tables cannot be created or copied", ("innodb_page_size", "disabled_storage_engines", "sql_require_primary_key")),
    ("functions and triggers of clients are refused", ("log_bin_trust_function_creators",)),
    ("statements of clients are refused", ("sql_safe_updates", "local_infile")),
    ("accounts named by host no longer match", ("skip_name_resolve",)),
    ("accounts log in by another method, or not at all", ("default_authentication_plugin", "authentication_policy")),
    ("clients without encryption, or with an old one, are refused", ("require_secure_transport", "tls_version")),
    ("grants mean something else", ("partial_revokes", "mandatory_roles", "automatic_sp_privileges")),
    ("every session starts with another statement", ("init_connect",)),
    ("searches find other words", ("ft_min_word_len", "innodb_ft_min_token_size", "innodb_ft_enable_stopword")),
    ("acknowledged writes can be lost in a crash", ("innodb_flush_log_at_trx_commit", "sync_binlog")),
    ("pages can be torn in a crash", ("innodb_doublewrite",)),
    ("it cannot be a master", ("log_bin", "log_slave_updates", "log_replica_updates")),
    ("its replicas and readers of its binary log get other events", ("binlog_format", "binlog_row_image")),
    ("the order of GTIDs is not enforced", ("gtid_strict_mode", "gtid_mode", "enforce_gtid_consistency")),
    ("it would write under another domain", ("gtid_domain_id",)),
    ("errors of replication are passed over", ("slave_exec_mode", "replica_exec_mode", "slave_skip_errors")),
    ("errors of replication are passed over", ("replica_skip_errors",)),
    (
        "what an acknowledgement promises differs",
        (
            "rpl_semi_sync_master_wait_point",
            "rpl_semi_sync_master_timeout",
            "rpl_semi_sync_source_wait_point",
            "rpl_semi_sync_source_timeout",
            "rpl_semi_sync_source_wait_for_replica_count",
            "rpl_semi_sync_master_wait_for_slave_count",
        ),
    ),
)
_CAPACITIES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("it turns clients away", ("max_connections", "max_user_connections")),
    ("large statements and rows are refused", ("max_allowed_packet",)),
    ("less of the data fits into memory", ("innodb_buffer_pool_size",)),
    ("statements that were prepared before are refused", ("max_prepared_stmt_count",)),
)
_NOTES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("plans of statements may be others", ("optimizer_switch", "optimizer_search_depth", "join_buffer_size")),
    ("plans of statements may be others", ("sort_buffer_size", "eq_range_index_dive_limit")),
    ("temporary tables go to disk at another size", ("tmp_table_size", "max_heap_table_size")),
    ("the redo log has another size", ("innodb_log_file_size", "innodb_redo_log_capacity")),
    ("writes reach the disk at another pace", ("innodb_io_capacity", "innodb_flush_method")),
    ("deadlocks are found otherwise", ("innodb_deadlock_detect",)),
    ("tables stay open in another number", ("table_open_cache", "table_definition_cache")),
    ("clients are served by another model of threads", ("thread_handling", "thread_pool_size", "thread_cache_size")),
    ("results are cached otherwise", ("query_cache_type", "query_cache_size")),
    ("binary logs are kept for another time", ("binlog_expire_logs_seconds", "expire_logs_days")),
    ("readers of its binary log get other details", ("binlog_row_metadata", "binlog_checksum")),
    ("readers of its binary log get other details", ("binlog_annotate_row_events", "binlog_rows_query_log_events")),
    ("its binary log is stored otherwise", ("binlog_encryption", "encrypt_binlog", "binlog_transaction_compression")),
    ("replication applies in another order or width", ("slave_parallel_mode", "slave_parallel_threads")),
    ("replication applies in another order or width", ("replica_parallel_workers", "replica_preserve_commit_order")),
    ("types are converted otherwise in replication", ("slave_type_conversions", "replica_type_conversions")),
    ("statements are measured otherwise", ("performance_schema", "userstat")),
    ("slow statements are logged otherwise", ("slow_query_log", "long_query_time")),
)


def _spread(weight: Weight, groups: tuple[tuple[str, tuple[str, ...]], ...]) -> dict[str, Watched]:
    return {name: Watched(name=name, weight=weight, why=why) for why, names in groups for name in names}


WATCHED: dict[str, Watched] = {
    **_spread(Weight.BLOCKS, _BLOCKS),
    **_spread(Weight.BLOCKS_IF_SMALLER, _CAPACITIES),
    **_spread(Weight.NOTES, _NOTES),
}
# Values that are nobody's business: an administrator's statement may hold anything.
DIGESTED = frozenset({"init_connect"})
