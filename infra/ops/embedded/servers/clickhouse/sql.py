"""A minimal SQL tokenizer: finds inline data, formats and output clauses of statements."""

import re
from collections.abc import Collection, Iterator, Sequence
from typing import NamedTuple

# As ClickHouse's Lexer: bytes outside ASCII are space, except typographic quotes. Numbers and words may hold `$`. A run of
# literals with commas, as in a long IN (...), is one token: a statement that names 200,000 ids is read in milliseconds.
TOKEN = re.compile(
    rb"""(?P<list>(?:(?:'[^'\\]*'|-?[0-9]++)\s*+,\s*+){2,}+)
    |(?P<space>\s+|--[^\n]*|/\*.*?(?:\*/|\Z)|\#[ !][^\n]*)
    |(?P<text>'(?:[^'\\]|\\.|'')*'|\xe2\x80\x98.*?\xe2\x80\x99|\$(?P<tag>[A-Za-z0-9_]*)\$.*?\$(?P=tag)\$)
    |(?P<quoted>`(?:[^`\\]|\\.|``)*`|"(?:[^"\\]|\\.|"")*"|\xe2\x80\x9c.*?\xe2\x80\x9d)
    |(?P<word>[A-Za-z_][A-Za-z0-9_$]*)
    |(?P<blank>[\x80-\xff])
    |(?P<other>[0-9][0-9A-Za-z_.$]*|.)""",
    re.VERBOSE | re.DOTALL,
)
ESCAPE = re.compile(rb"\\(?:x([0-9A-Fa-f]{2})|(.))", re.DOTALL)
AFTER_FORMAT = re.compile(rb"[ \t\r]*;?[ \t\r]*\n?")
READS = (b"SELECT", b"WITH", b"FROM")
TYPOGRAPHIC = (b"\xe2\x80\x98", b"\xe2\x80\x9c")


class Token(NamedTuple):
    """One token: kind, text (identifiers unquoted), offsets, and depth of brackets."""

    kind: str
    text: bytes
    start: int
    end: int
    depth: int

    def is_keyword(self, *words: bytes) -> bool:
        """Whether this is one of these keywords (given in upper case)."""
        return self.kind == "word" and self.text.upper() in words

    @property
    def name(self) -> str:
        """The identifier in lower case; empty for any other token."""
        return self.text.decode(errors="replace").lower() if self.kind in ("word", "quoted") else ""


class DataInsert(NamedTuple):
    """Offsets within an INSERT with inline data.

    Attributes:
        head: offset in the statement where FROM INFILE belongs: after table and columns.
        format_at: offset of the keyword FORMAT or VALUES.
        format: the format's name.
        data_at: offset where the data begin.
        input: start and end offsets of `input(...)` with its structure's literal, where the INSERT selects from it.
        structure: that literal, with quotes.
    """

    head: int
    format_at: int
    format: str
    data_at: int
    input: tuple[int, int] | None = None
    structure: bytes = b""


def tokens(sql: bytes) -> Iterator[Token]:
    """Yield the tokens of a query without space and comments; lazily, so that inline data are not tokenized."""
    depth = position = 0
    while position < len(sql):
        match = TOKEN.match(sql, position)
        if match is None:  # cannot be: the last alternative takes any byte
            return
        start, position = position, match.end()
        kind = match.lastgroup or "other"
        kind = "text" if kind in ("tag", "list") else kind
        if kind in ("space", "blank"):
            continue
        text = match.group()
        if text in (b"(", b"[", b"{"):
            depth += 1
        elif text in (b")", b"]", b"}"):
            depth -= 1
        if kind == "quoted":
            text = _unquoted(text)
        yield Token(kind, text, start, position, depth)


def unquoted_text(token: Token) -> bytes:
    """Return the value of a string literal."""
    if token.text.startswith(b"$"):
        tag = token.text[: token.text.index(b"$", 1) + 1]
        return token.text[len(tag) : -len(tag)]
    return _unquoted(token.text)


def _unquoted(text: bytes) -> bytes:
    if text.startswith(TYPOGRAPHIC):
        return text[3:-3]
    return ESCAPE.sub(_unescaped, text[1:-1].replace(text[:1] * 2, text[:1]))


def _unescaped(match: re.Match[bytes]) -> bytes:
    """Return the value of an escape sequence: `\\xHH` is a byte, `\\N` is empty."""
    if match[1] is not None:
        return bytes([int(match[1], 16)])
    return b"" if match[2] == b"N" else match[2]


def data_insert(sql: bytes) -> DataInsert | None:
    """Return the offsets of an INSERT with data; None for every other query."""
    stream = tokens(sql)
    first = next(stream, None)
    if first is None or not first.is_keyword(b"INSERT"):
        return None
    head, selects = 0, False
    prefix = [first]
    inputs: list[int] = []
    for token in stream:
        previous = prefix[-1]
        is_table = previous.text == b"." or previous.is_keyword(b"INTO", b"TABLE")
        if token.depth == 0 and token.is_keyword(b"FORMAT") and not is_table:
            name = next(stream, None)
            if name is None or not name.name or (selects and not inputs):
                return None
            data_at = _after_newline(sql, name.end)
            insert = DataInsert(head or token.start, token.start, name.text.decode(errors="replace"), data_at)
            return _from_input(insert, prefix, inputs) if selects else insert
        if token.depth == 0 and token.is_keyword(b"VALUES") and not selects and not is_table:
            return DataInsert(head or token.start, token.start, "Values", token.end)
        if token.depth == 0 and token.is_keyword(b"SETTINGS") and not selects:
            head = head or token.start
        elif token.is_keyword(b"SELECT", b"WITH") and (token.depth == 0 or previous.text == b"(") and not is_table:
            selects = True
        elif selects and token.text == b"(" and previous.name == "input":
            inputs.append(len(prefix) - 1)
        prefix.append(token)
    return None


def _from_input(insert: DataInsert, prefix: Sequence[Token], inputs: Sequence[int]) -> DataInsert:
    """Return the INSERT with the offsets of `input('structure')`; an empty structure where there is not exactly one."""
    call = prefix[inputs[0] : inputs[0] + 4]
    kinds = [token.text if token.kind == "other" else token.kind for token in call[1:]]
    if len(inputs) > 1 or kinds != [b"(", "text", b")"]:
        return insert._replace(input=(call[0].start, call[0].end))
    return insert._replace(input=(call[0].start, call[3].end), structure=call[2].text)


def begins_with(sql: bytes, word: bytes) -> bool:
    """Whether the statement's first word is this keyword (given in upper case)."""
    first = next(tokens(sql), None)
    return first is not None and first.is_keyword(word)


def calls_input(sql: bytes) -> bool:
    """Whether the statement calls `input(...)`, which reads inline data."""
    previous = b""
    for token in tokens(sql):
        if token.text == b"(" and previous == b"input":
            return True
        previous = token.text.lower()
    return False


def _after_newline(sql: bytes, position: int) -> int:
    """Return where data begin: after the format's name, blanks, an optional semicolon and one line break."""
    match = AFTER_FORMAT.match(sql, position)
    return match.end() if match else position


def is_select(sql: bytes) -> bool:
    """Whether the query is a SELECT that does not write; its result may be of any size."""
    first: Token | None = None
    for token in tokens(sql):
        if first is None and token.text != b"(":
            first = token
            if not token.is_keyword(*READS):
                return False
        if token.is_keyword(b"INSERT") and token.depth == 0:
            return False
    return first is not None


class OutputClause(NamedTuple):
    """The offset of a query's FORMAT clause (or where it would be), and the format's name, if any."""

    position: int
    format: str | None


def output_clause(sql: bytes, formats: Collection[str]) -> OutputClause:
    """Return the FORMAT clause at the end of a query: FORMAT, a name, and after it nothing or SETTINGS.

    A column named `format` does not count. `formats`: known names, lower case; unknown ones are left to the engine.
    """
    clause: OutputClause | None = None
    end = 0
    last = [Token("other", b"", 0, 0, 0)] * 2
    for token in tokens(sql):
        if clause is not None and last[1].start == clause.position and not _may_follow(token):
            clause = None
        before, word = last
        if (
            word.depth == 0
            and word.is_keyword(b"FORMAT")
            and token.name
            and (token.name in formats or _ends_expression(before))
        ):
            clause = OutputClause(word.start, token.text.decode(errors="replace"))
            last = [word, word._replace(text=b"")]
        else:
            last = [word, token]
        if token.text != b";":
            end = token.end
    return clause or OutputClause(end, None)


def _may_follow(token: Token) -> bool:
    return token.text == b";" or token.is_keyword(b"SETTINGS")


def _ends_expression(token: Token) -> bool:
    """Whether FORMAT after this token is the keyword, not a column as in `SELECT format f`."""
    return (
        bool(token.text)
        and token.text not in (b",", b".", b"(")
        and not token.is_keyword(b"SELECT", b"DISTINCT", b"AS", b"BY", b"FROM")
    )


def count_statements(sql: bytes) -> int:
    """Return the number of statements."""
    count, empty = 0, True
    for token in tokens(sql):
        if token.text == b";" and token.depth == 0:
            empty = True
        elif empty:
            count, empty = count + 1, False
    return count
