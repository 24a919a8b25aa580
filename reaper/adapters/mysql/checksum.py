"""A table's rows as one number that means the same on two servers: the SQL of it.

Each row is written as one string from which every value can be told, hashed with SHA-1, of which 64 bits
are kept, and the hashes of a range are added up. SHA-1 because CRC32 is linear (two rows of equal length
that swap their values keep the XOR of their CRCs), and because with the processor's help it costs less
than MD5 (measured on MariaDB 10.11: 1.2 times the reading where MD5 costs 1.9). A sum, not BIT_XOR:
two equal rows would cancel each other, and one aggregate evaluates the expression once.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

_WHOLE = frozenset({"tinyint", "smallint", "mediumint", "int", "bigint"})
_MOMENT = frozenset({"date", "time", "datetime", "timestamp"})
_TEXT_FORM = frozenset({"uuid", "inet6", "inet4"})  # MariaDB's; their text form is unique
_REAL = frozenset({"float", "double", "real"})
_INDEXED = frozenset({"bit", "enum", "set"})
_CHARACTERS = frozenset({"char", "varchar"})
_BYTES = frozenset({"binary", "varbinary"})


class _Form(Enum):
    """How a value is written into the row's string."""

    PLAIN = "as its text, which is unique and has no comma"
    REAL = "as the text of a double: a FLOAT's own text has 6 digits only"
    NUMBER = "as a number: BIT is no text, ENUM's index tells '' from an invalid value"
    COUNTED = "as its bytes, whatever its character set, after its length"
    DIGEST = "as a digest: large, or of a type unknown here"


@dataclass(frozen=True, kw_only=True)
class Column:
    """A column as information_schema describes it. Two servers' tables are alike if these are equal."""

    name: str
    type: str  # its DATA_TYPE in lower case
    declared: str  # its COLUMN_TYPE
    charset: str
    collation: str
    nullable: str
    extra: str
    generated_as: str

    @property
    def quoted(self) -> str:
        """The name in a statement."""
        return identifier(self.name)

    @property
    def is_data(self) -> bool:
        """False for a virtual column, which nobody stores and which may depend on the session."""
        return "VIRTUAL" not in self.extra.upper()

    @property
    def orders(self) -> bool:
        """True if a value can be written as a literal that its index finds and orders alike."""
        known = (_WHOLE, _MOMENT, _TEXT_FORM, _REAL, _INDEXED, _CHARACTERS, _BYTES, {"decimal", "year"})
        return any(self.type in kinds for kinds in known)

    @property
    def leads(self) -> bool:
        """True if an index that begins with it is found by a range of its values.

        ENUM and SET are ordered by their number, and compared with a number no range is used (10.11, EXPLAIN).
        """
        return self.orders and self.type not in {"enum", "set"}

    @property
    def form(self) -> _Form:
        """How its values are written."""
        if self.type in _REAL:
            return _Form.REAL
        if self.type in _INDEXED:
            return _Form.NUMBER
        if self.type in _CHARACTERS | _BYTES:
            return _Form.COUNTED
        if self.type in _WHOLE | _MOMENT | _TEXT_FORM | {"decimal", "year"}:
            return _Form.PLAIN
        return _Form.DIGEST

    @property
    def value(self) -> str:
        """The expression that writes a value."""
        match self.form:
            case _Form.REAL:
                return f"{self.quoted} * 1e0"
            case _Form.NUMBER:
                return f"CAST({self.quoted} AS UNSIGNED)"
            case _Form.DIGEST:
                return f"SHA1({self.quoted})"
            case _Form.COUNTED if self.type in _CHARACTERS:
                return f"CONVERT({self.quoted} USING binary)"
            case _Form.COUNTED | _Form.PLAIN:
                return self.quoted

    @property
    def fetched(self) -> str:
        """The expression that brings a key value to the client as text without loss."""
        if self.type in _CHARACTERS | _BYTES:
            return f"HEX(CONVERT({self.quoted} USING binary))"
        return f"CAST({self.value} AS CHAR)"

    def literal(self, text: str) -> str:
        """What was fetched, as a literal that is compared as the index orders."""
        if self.type in _CHARACTERS:
            return f"_{self.charset} X'{text}' COLLATE {self.collation}"
        if self.type in _BYTES:
            return f"X'{text}'"
        if self.type in _MOMENT | _TEXT_FORM:
            return f"'{text}'"
        if self.type in _REAL:
            return text if "e" in text else f"{text}e0"
        return text

    def shown(self, text: str) -> str:
        """What was fetched, for a person."""
        if self.type not in _CHARACTERS | _BYTES:
            return text
        try:
            return repr(bytes.fromhex(text).decode())
        except UnicodeDecodeError:
            return f"0x{text}"


Key = tuple[str, ...]  # a key's values as they were fetched


@dataclass(frozen=True, kw_only=True)
class Table:
    """A table and the index in whose order it is read."""

    schema: str
    name: str
    engine: str
    kind: str  # TABLE_TYPE: BASE TABLE, SEQUENCE, SYSTEM VERSIONED
    columns: tuple[Column, ...]
    index: str | None  # None: no unique key that orders every row
    key: tuple[Column, ...]
    rows: int  # the server's estimate
    size_bytes: int  # of the data, without other indexes; the server's estimate

    @property
    def title(self) -> str:
        """For a person and for sorting."""
        return f"{self.schema}.{self.name}"

    @property
    def definition(self) -> tuple[object, ...]:
        """What has to be equal on both servers."""
        return self.engine, self.kind, self.columns, self.index, self.key

    @property
    def counts_up(self) -> bool:
        """True if chunks can be cut by arithmetic, without reading where they end."""
        return len(self.key) == 1 and self.key[0].type in _WHOLE

    @property
    def row_bytes(self) -> int:
        """About the size of a row."""
        return max(32, self.size_bytes // max(1, self.rows))

    @property
    def source(self) -> str:
        """FROM and the index to read by. PARTITION and the like do not matter: all of the table."""
        by = f" FORCE INDEX ({identifier(self.index)})" if self.index else ""
        return f"FROM {identifier(self.schema)}.{identifier(self.name)}{by}"

    def sums(self, span: "Span") -> str:
        """The statement that counts and adds up the rows of a range: columns n and sum."""
        return f"SELECT SQL_NO_CACHE COUNT(*) AS n, SUM({self._hash}) AS sum {self.source}{span.where(self.key)}"

    def listing(self, span: "Span", most: int) -> str:
        """The statement that lists the rows of a range: columns h, k0, k1..."""
        return (
            f"SELECT SQL_NO_CACHE {self._hash} AS h, {self._fetched} {self.source}{span.where(self.key)}"
            f" ORDER BY {self._order} LIMIT {most}"
        )

    def nth(self, span: "Span", n: int) -> str:
        """The statement that finds the n-th key of a range, from 1."""
        return (
            f"SELECT SQL_NO_CACHE {self._fetched} {self.source}{span.where(self.key)}"
            f" ORDER BY {self._order} LIMIT 1 OFFSET {n - 1}"
        )

    def ends(self) -> str:
        """The statement that finds the lowest and highest value of a key that counts up."""
        (column,) = self.key
        return f"SELECT MIN({column.quoted}) AS low, MAX({column.quoted}) AS high {self.source}"

    def key_of(self, row: Mapping[str, object]) -> Key:
        """The key in a row of `listing` or `nth`."""
        values = (row[f"k{i}"] for i in range(len(self.key)))
        return tuple(value.decode() if isinstance(value, bytes) else str(value) for value in values)

    def shown(self, key: Key) -> str:
        """A key for a person."""
        values = [column.shown(text) for column, text in zip(self.key, key, strict=True)]
        return values[0] if len(values) == 1 else f"({', '.join(values)})"

    @property
    def _fetched(self) -> str:
        return ", ".join(f"{column.fetched} AS k{i}" for i, column in enumerate(self.key))

    @property
    def _order(self) -> str:
        return ", ".join(column.quoted for column in self.key)

    @property
    def _hash(self) -> str:
        """64 bits of the row. First which values are NULL, then the lengths, then the values (NULLs left out)."""
        data = [column for column in self.columns if column.is_data]
        nullable = [column for column in data if column.nullable == "YES"]
        counted = [column for column in data if column.form is _Form.COUNTED]
        others = [column for column in data if column.form is not _Form.COUNTED]
        parts = [f"CONCAT({', '.join(f'ISNULL({column.quoted})' for column in nullable)})"] if nullable else []
        parts += [column.value for column in others]
        parts += [f"LENGTH({column.quoted})" for column in counted]
        parts += [column.value for column in counted]
        row = f"CONCAT_WS(',', {', '.join(parts)})" if parts else "''"
        return f"CAST(CONV(LEFT(SHA1({row}), 16), 16, 10) AS UNSIGNED)"


@dataclass(frozen=True, kw_only=True)
class Span:
    """A range of keys: above `after`, up to and including `upto`; None is open."""

    after: Key | None = None
    upto: Key | None = None

    def where(self, key: Sequence[Column]) -> str:
        """The condition, spelled out: a comparison of row constructors does not use the index on either flavour."""
        parts = []
        if self.after is not None:
            parts.append(_beyond(key, self.after, ">", ">"))
        if self.upto is not None:
            parts.append(_beyond(key, self.upto, "<", "<="))
        return f" WHERE {' AND '.join(parts)}" if parts else ""


def _beyond(key: Sequence[Column], values: Key, strict: str, last: str) -> str:
    """`(a, b) > (1, 2)` as `(a >= 1 AND (a > 1 OR (a = 1 AND (b > 2))))`."""
    column, value = key[0].quoted, key[0].literal(values[0])
    if len(key) == 1:
        return f"({column} {last} {value})"
    rest = _beyond(key[1:], values[1:], strict, last)
    return f"({column} {strict}= {value} AND ({column} {strict} {value} OR ({column} = {value} AND {rest})))"


def identifier(name: str) -> str:
    """A name in a statement."""
    return "`" + name.replace("`", "``") + "`"
