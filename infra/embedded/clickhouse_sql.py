"""Reads just enough SQL to speak HTTP for an engine in process: where inline data begins, which format, what to refuse."""

import re
from collections.abc import Iterator
from typing import NamedTuple

TOKEN = re.compile(
    rb"""(?P<space>\s+|--[^\n]*|/\*.*?\*/|\#[ !][^\n]*)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|\$(?P<tag>\w*)\$.*?\$(?P=tag)\$)
    |(?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*")
    |(?P<word>[A-Za-z_][A-Za-z0-9_]*)
    |(?P<other>[0-9][0-9A-Za-z_.]*|.)""",
    re.VERBOSE | re.DOTALL,
)

# A failed CREATE with one of these engines leaves a path that chDB cannot open again; the rest of them need a cluster.
BRICKING = re.compile(
    rb"kafka|rabbitmq|nats|s3queue|azurequeue|filelog|keepermap|postgresql|mysql|mongodb|redis|sqlite|"
    rb"materialized.*|replicated.*|shared.*|distributed|executable.*|timeseries|ytsaurus|arrowflight|datalakecatalog",
    re.IGNORECASE,
)


class Token(NamedTuple):
    """One token: its kind, its text (identifiers without their quotes), where it ends, and how deep in brackets it is."""

    kind: str
    text: bytes
    end: int
    depth: int

    def says(self, *words: bytes) -> bool:
        """Whether this is one of these keywords (given in capitals)."""
        return self.kind == "word" and self.text.upper() in words


class DataInsert(NamedTuple):
    """An INSERT that brings its data along: the statement without FORMAT, the format's name, and where the data begin."""

    statement: bytes
    format: str
    data_at: int


def tokens(sql: bytes) -> Iterator[Token]:
    """The tokens of a query, without space and comments; lazily, so that megabytes of inline data are never read."""
    depth = position = 0
    while position < len(sql):
        found = TOKEN.match(sql, position)
        if found is None:  # cannot be: the last alternative takes any byte
            return
        position = found.end()
        kind = found.lastgroup or "other"
        kind = "text" if kind == "tag" else kind
        if kind == "space":
            continue
        text = found.group()
        if text in (b"(", b"[", b"{"):
            depth += 1
        elif text in (b")", b"]", b"}"):
            depth -= 1
        if kind == "quoted":
            text = re.sub(rb"\\(.)", rb"\1", text[1:-1].replace(text[:1] * 2, text[:1]), flags=re.DOTALL)
        yield Token(kind, text, position, depth)


def data_insert(sql: bytes) -> DataInsert | None:
    """How to take a query apart that carries data in a named format; None for every other query, VALUES included."""
    stream = tokens(sql)
    first = next(stream, None)
    if first is None or not first.says(b"INSERT"):
        return None
    before = first.end
    from_input = False
    for token in stream:
        if token.depth == 0 and token.says(b"FORMAT"):
            name = next(stream, None)
            if name is None or name.kind not in ("word", "quoted"):
                return None
            return DataInsert(sql[:before], name.text.decode(), _after_newline(sql, name.end))
        if token.kind == "word" and token.text.lower() == b"input":
            from_input = True
        if token.depth == 0 and token.says(b"VALUES"):
            return None
        if token.depth == 0 and token.says(b"SELECT", b"WITH") and b"input" not in sql[:4096].lower() and not from_input:
            return None
        before = token.end
    return None


def _after_newline(sql: bytes, position: int) -> int:
    """Data begin after the format's name, blanks, an optional semicolon and one line break."""
    found = re.compile(rb"[ \t\r]*;?[ \t\r]*\n?").match(sql, position)
    return found.end() if found else position


def named_format(sql: bytes) -> str | None:
    """The format that a query asks for itself with FORMAT at its end; None if it leaves it to the request."""
    name = None
    previous: Token | None = None
    for token in tokens(sql):
        if previous is not None and previous.depth == 0 and previous.says(b"FORMAT") and token.kind in ("word", "quoted"):
            name = token.text.decode()
        previous = token
    return name


def statements(sql: bytes) -> int:
    """How many statements there are."""
    count, empty = 0, True
    for token in tokens(sql):
        if token.text == b";" and token.depth == 0:
            empty = True
        elif empty:
            count, empty = count + 1, False
    return count


def refused_engine(sql: bytes) -> str | None:
    """An engine in this query that would make the data unopenable or that needs a cluster; None if there is none."""
    stream = tokens(sql)
    first = next(stream, None)
    if first is None or not first.says(b"CREATE", b"ATTACH", b"REPLACE", b"EXPLAIN", b"RESTORE"):
        return None
    for token in stream:
        if not token.says(b"ENGINE"):
            continue
        name = next(stream, None)
        if name is not None and name.text == b"=":
            name = next(stream, None)
        if name is None:
            return None
        if name.text == b"{" or (name.kind in ("word", "quoted") and BRICKING.fullmatch(name.text)):
            return name.text.decode(errors="replace")
    return None
