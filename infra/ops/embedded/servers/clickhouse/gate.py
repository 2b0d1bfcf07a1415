"""Refuses statements that open files, addresses or programs, or that would make the data unreadable.

The roles of `access.py` deny sources in the engine too. This check gives a reason before the engine sees a statement, and
covers what has no grant (scalar `file`, programs, INTO OUTFILE, dictionaries' sources, disks).
"""

from collections.abc import Sequence
from itertools import pairwise

from infra.ops.embedded.servers.clickhouse.errors import EngineError, clickhouse_error
from infra.ops.embedded.servers.clickhouse.sql import Token, tokens, unquoted_text

# Allowed table functions: they read tables of the engine or generate rows.
TABLE_FUNCTIONS = frozenset(
    {
        "dictionary",
        "format",
        "fuzzjson",
        "generate_series",
        "generaterandom",
        "generateseries",
        "input",
        "loop",
        "merge",
        "mergetreeanalyzeindexes",
        "mergetreecodecblockcounts",
        "mergetreeindex",
        "mergetreeprojection",
        "mergetreetextindex",
        "null",
        "numbers",
        "numbers_mt",
        "primes",
        "sqlstandardvalues",
        "timeseriesdata",
        "timeseriesmetrics",
        "timeseriestags",
        "values",
        "view",
        "viewexplain",
        "viewifpermitted",
        "zeros",
        "zeros_mt",
    }
)
# Refused functions of expressions (they open files, disks, libraries or addresses) and unregistered table functions.
FUNCTIONS = frozenset(
    {
        "aiclassify",
        "aiembed",
        "aiextract",
        "aifilter",
        "aigenerate",
        "airedact",
        "aisimilarity",
        "aitranslate",
        "catboostevaluate",
        "disk",
        "file",
        "kql",
    }
)
ENGINES = frozenset(
    {
        "aggregatingmergetree",
        "alias",
        "atomic",
        "buffer",
        "coalescingmergetree",
        "collapsingmergetree",
        "dictionary",
        "generaterandom",
        "graphitemergetree",
        "join",
        "log",
        "materializedview",
        "memory",
        "merge",
        "mergetree",
        "null",
        "ordinary",
        "replacingmergetree",
        "set",
        "stripelog",
        "summingmergetree",
        "tinylog",
        "versionedcollapsingmergetree",
        "view",
    }
)
SOURCES = frozenset({"clickhouse", "null"})
LOOPBACK_HOSTS = (b"localhost", b"127.0.0.1", b"::1")
FIRST_WORDS = frozenset({"backup", "restore"})
SETTINGS = frozenset({"profile", "disk"})
"""Settings that no statement may change; the engine protects those of `access.FIXED_SETTINGS` itself."""
BRICKS = "in the embedded ClickHouse it would make the data unopenable, needs a cluster, or reads outside of the engine"


def refusal(sql: bytes, registered: frozenset[str]) -> EngineError | None:
    """Return the error for a refused statement; None for an allowed one. `registered`: table functions, lower case."""
    stream = list(tokens(sql))
    refused = registered - TABLE_FUNCTIONS | FUNCTIONS
    if stream and stream[0].name in FIRST_WORDS:
        return _denied(
            f"{stream[0].text.decode(errors='replace').upper()} is refused here: copy the folder of the stopped server instead."
        )
    creates = any(token.is_keyword(b"CREATE", b"ATTACH", b"REPLACE", b"RESTORE") for token in stream[:3])
    for index, token in enumerate(stream):
        error = (
            _function(stream, index, refused)
            or _file_clause(stream, index)
            or _source(stream, index, registered)
            or _setting(stream, index)
            or (_engine(stream, index) if creates else None)
        )
        if error is not None:
            return error
        if "$" in token.text.decode(errors="replace") and token.kind != "text":
            return clickhouse_error(62, "An identifier with $ is refused here: rename it.", "SYNTAX_ERROR")
    return None


def _denied(text: str) -> EngineError:
    return clickhouse_error(497, text, "ACCESS_DENIED")


def _at(stream: Sequence[Token], index: int) -> Token | None:
    return stream[index] if 0 <= index < len(stream) else None


def _function(stream: Sequence[Token], index: int, refused: frozenset[str]) -> EngineError | None:
    token, following = stream[index], _at(stream, index + 1)
    if following is None or following.text != b"(" or token.name not in refused or _is_table_name(stream, index):
        return None
    name = token.text.decode(errors="replace")
    return _denied(
        f"{name}() is refused here: queries read tables of this ClickHouse, no files or addresses. "
        "Send the data with INSERT ... FORMAT, or read the result over HTTP."
    )


def _is_table_name(stream: Sequence[Token], index: int) -> bool:
    """Whether an identifier before a parenthesis names a table: `INSERT INTO url (a)`, `CREATE TABLE file (a Int8)`."""
    before, earlier = _at(stream, index - 1), _at(stream, index - 2)
    if before is None:
        return False
    if before.is_keyword(b"INTO") or before.text == b".":
        return True
    if earlier is None:
        return False
    if before.is_keyword(b"TABLE"):
        return earlier.is_keyword(b"INTO", b"CREATE", b"REPLACE", b"TEMPORARY")
    return before.is_keyword(b"EXISTS") and earlier.is_keyword(b"NOT") and stream[0].is_keyword(b"CREATE", b"ATTACH")


def _file_clause(stream: Sequence[Token], index: int) -> EngineError | None:
    token, following = stream[index], _at(stream, index + 1)
    if following is None or following.kind != "text":
        return None
    if token.is_keyword(b"OUTFILE", b"INFILE"):
        return _denied(f"{token.text.decode(errors='replace').upper()} is refused here: data come and go over HTTP.")
    if token.is_keyword(b"FROM") and stream[0].is_keyword(b"ATTACH"):
        return _denied("ATTACH ... FROM a path is refused here.")
    return None


def _engine(stream: Sequence[Token], index: int) -> EngineError | None:
    if not stream[index].is_keyword(b"ENGINE"):
        return None
    name = _at(stream, index + 1)
    if name is not None and name.text == b"=":
        name = _at(stream, index + 2)
    if name is None or name.name in ENGINES:
        return None
    if name.text != b"{" and not name.name:
        return None  # a column named engine
    if any(token.depth == 0 and token.is_keyword(b"SELECT") for token in stream[:index]):
        return None  # part of AS SELECT
    following = name.text.decode(errors="replace")
    return clickhouse_error(344, f"Engine {following} is refused here: {BRICKS}.", "SUPPORT_IS_DISABLED")


def _source(stream: Sequence[Token], index: int, registered: frozenset[str]) -> EngineError | None:
    if not stream[index].is_keyword(b"SOURCE"):
        return None
    bracket, name = _at(stream, index + 1), _at(stream, index + 2)
    if bracket is None or name is None or bracket.text != b"(" or not name.name:
        return None
    if name.name not in SOURCES:
        return _denied(
            f"A dictionary's SOURCE({name.text.decode(errors='replace')}) is refused here: use SOURCE(CLICKHOUSE(TABLE ...))."
        )
    depth = bracket.depth
    inner = []
    for token in stream[index + 2 :]:
        if token.depth < depth:
            break
        inner.append(token)
    for key, value in pairwise(inner):
        if key.name == "host" and (value.kind != "text" or unquoted_text(value) not in LOOPBACK_HOSTS):
            return _denied("A dictionary's source on another HOST is refused here: leave HOST out.")
        if key.name in ("query", "invalidate_query", "where", "update_field") and value.kind == "text":
            error = refusal(unquoted_text(value), registered)
            if error is not None:
                return error
    return None


def _setting(stream: Sequence[Token], index: int) -> EngineError | None:
    token, following = stream[index], _at(stream, index + 1)
    if token.name not in SETTINGS or following is None or following.text != b"=":
        return None
    for earlier in reversed(stream[:index]):
        if earlier.depth < token.depth:
            return None
        if earlier.depth > token.depth:
            continue
        if earlier.is_keyword(b"SETTINGS", b"SET"):
            return _denied(f"The setting {token.text.decode(errors='replace')} is refused here: limits belong to the user.")
        if earlier.is_keyword(b"WHERE", b"HAVING", b"ON", b"UPDATE", b"SELECT", b"BY", b"PREWHERE"):
            return None
    return None
