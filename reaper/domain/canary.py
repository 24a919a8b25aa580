"""Canary queries: what an application reads, in a form that can do no harm. The check is a strict lexer.

What is not known to be harmless is refused: reaper would rather have no canary than one that locks, sleeps or writes
on somebody's master. It runs in a read-only transaction with a time limit all the same.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

LONGEST = 16_384  # characters


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that a parenthesis may follow, with or without a space between; each is reserved in both flavours, so that no
# stored function has its name. Everything else in front of a parenthesis is a call.
_BEFORE_PARENTHESIS = _words(
    "ALL AND AS BETWEEN BY CASE DISTINCT DIV ELSE EXISTS FROM HAVING IN INDEX INNER IS JOIN KEY LIKE MOD NOT ON OR OVER"
    " REGEXP RLIKE SELECT THEN UNION USING VALUES WHEN WHERE XOR"
)
# Built-in functions of both flavours (their manuals) that read nothing but their arguments and take no time of their
# own. A name with its parenthesis right behind it is the built-in one, whatever was created under that name.
_FUNCTIONS = _words(
    "ABS ADDDATE ADDTIME ASCII AVG BIT_AND BIT_COUNT BIT_LENGTH BIT_OR BIT_XOR CAST CEIL CEILING CHAR CHARACTER_LENGTH"
    " CHAR_LENGTH COALESCE CONCAT CONCAT_WS CONVERT COUNT CRC32 CURDATE CURRENT_DATE CURRENT_TIMESTAMP CURTIME DATE"
    " DATEDIFF DATE_ADD DATE_FORMAT DATE_SUB DAY DAYOFMONTH DAYOFWEEK DAYOFYEAR DECIMAL EXTRACT FIELD FIND_IN_SET FLOOR"
    " FORMAT FROM_UNIXTIME GREATEST GROUP_CONCAT HEX HOUR IF IFNULL INET_ATON INET_NTOA INSTR ISNULL JSON_CONTAINS"
    " JSON_EXTRACT JSON_LENGTH JSON_UNQUOTE JSON_VALUE LAST_DAY LCASE LEAST LEFT LENGTH LOCATE LOWER LPAD LTRIM"
    " MATCH MAX MD5 MICROSECOND MIN MINUTE MOD MONTH NOW NULLIF ORD POSITION POW POWER QUARTER REPLACE REVERSE RIGHT"
    " ROUND RPAD RTRIM SECOND SHA1 SHA2 SIGN SQRT STD STDDEV STR_TO_DATE SUBDATE SUBSTR SUBSTRING SUBSTRING_INDEX SUM"
    " TIME TIMEDIFF TIMESTAMP TIMESTAMPADD TIMESTAMPDIFF TIME_TO_SEC TO_DAYS TRIM TRUNCATE UCASE UNHEX UNIX_TIMESTAMP"
    " UPPER UTC_DATE UTC_TIMESTAMP VARIANCE WEEK WEEKDAY YEAR"
)
# Words that turn a SELECT into something else; each is reserved in both flavours, or not worth the risk.
_FORBIDDEN = _words(
    "ALTER ANALYSE ANALYZE CALL CREATE DELETE DO DROP DUMPFILE EXPLAIN FOR GRANT HANDLER INSERT INTO KILL LOAD LOCK"
    " NEXT NEXTVAL OUTFILE PREVIOUS PROCEDURE RENAME SET SHARE SQL_CALC_FOUND_ROWS SQL_CACHE UPDATE WITH"
)

_TOKEN = re.compile(
    r"""(?P<space>\s+)
      | (?P<comment>--|\#|/\*)
      | (?P<quoted>'(?:[^'\\]|'')*'|"(?:[^"\\]|"")*"|`(?:[^`\\]|``)*`)
      | (?P<number>0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)
      | (?P<word>[A-Za-z_\u0080-\uffff$][A-Za-z0-9_\u0080-\uffff$]*)
      | (?P<sign>->>|->|<=>|<<|>>|<=|>=|<>|!=|\|\||&&|[-+*/%=<>!.,()~^|&])
      | (?P<end>;\s*\Z)""",
    re.X,
)


@dataclass(frozen=True, kw_only=True)
class Canary:
    """One query, with several sets of literals, so that it does not only measure the pages that it warmed itself."""

    name: str
    statements: tuple[str, ...]
    schema: str | None = None  # the default schema it ran in; None: it names its schemas itself


def refusal(statement: str) -> str | None:
    """Why a statement is no canary; None: it is one plain SELECT that can only read."""
    if len(statement) > LONGEST:
        return f"it is longer than {LONGEST} characters"
    try:
        tokens = list(_tokens(statement))
    except ValueError as error:
        return str(error)
    if not tokens or tokens[0] != ("word", "SELECT"):
        return "it does not begin with SELECT"
    depth = 0
    for i, (kind, text) in enumerate(tokens):
        depth += {"(": 1, ")": -1}.get(text, 0) if kind == "sign" else 0
        if depth < 0:
            return "its parentheses do not match"
        before = tokens[i - 1] if i else ("", "")
        if kind == "word" and before[0] == "number":
            return f"it has a name that begins with a digit, {before[1]}{text}"
        if kind == "word" and text in _FORBIDDEN and before != ("sign", "."):
            return f"it has the word {text}: only a plain SELECT that takes no lock is run"
        if text == "(" and kind == "sign" and (why := _call(tokens[:i])):
            return why
    return "its parentheses do not match" if depth else None


def _call(before: list[tuple[str, str]]) -> str | None:
    """Why what stands before an opening parenthesis is not harmless; None: it is."""
    spaced = before[-1][0] == "space"
    words = [token for token in before[-4:] if token[0] != "space"]
    kind, text = words[-1]
    if kind in {"sign", "number"}:
        return None if text != "." else "it has a parenthesis after a dot"
    if kind == "quoted":
        return f"it calls {text}, which may be a stored function"
    if len(words) > 1 and words[-2] == ("sign", "."):
        return f"it calls a function of a schema, {text}"
    if text in _BEFORE_PARENTHESIS or (text in _FUNCTIONS and not spaced):
        return None
    hint = " (with a space before the parenthesis)" if text in _FUNCTIONS else ""
    return f"it calls {text}{hint}, which is not known to be harmless"


def _tokens(statement: str) -> Iterator[tuple[str, str]]:
    """Kind and text of each token, words in capitals. ValueError: something that no canary needs."""
    at = 0
    while at < len(statement):
        match = _TOKEN.match(statement, at)
        if match is None:
            found = statement[at]
            if found == ";":
                raise ValueError("it is more than one statement")
            if found in "'\"`":
                raise ValueError("it has a backslash in a quoted text, or a quote that does not end")
            if found in "@:?":
                raise ValueError(f"it has {found!r}: variables and placeholders are not run")
            raise ValueError(f"it has {found!r}, which is not understood")
        kind, text = str(match.lastgroup), match.group()
        if kind == "comment":
            raise ValueError("it has a comment: servers execute some of them")
        if kind == "word":
            text = text.upper()
        if kind != "end":
            yield kind, text
        at = match.end()
