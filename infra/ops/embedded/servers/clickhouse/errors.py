"""ClickHouse exceptions and their HTTP statuses, as in ClickHouse's own HTTP handler."""

import re

# Clauses that the endpoint inserts are hidden from the client.
OWN_CLAUSE = re.compile(r"\s*(?:INTO OUTFILE|FROM INFILE) '/(?:proc/self|dev)/fd/\d+'(?: APPEND)?\s*")
TWICE = re.compile(r"^(Code: \d+\. DB::Exception: )\1")
CODE = re.compile(r"Code: (\d+)")
# ClickHouse: exceptionCodeToHTTPStatus. Every other code is 500.
STATUS = {
    **dict.fromkeys((6, 26, 27, 32, 33, 34, 36, 38, 41, 42, 43, 53, 62, 69, 70, 72, 117, 131, 306, 456, 457, 636), 400),
    **dict.fromkeys((46, 47, 50, 51, 56, 60, 63, 73, 78, 81, 115, 336), 404),
    **dict.fromkeys((192, 193, 497, 516), 403),
    194: 401,
    48: 501,
    159: 408,
    **dict.fromkeys((76, 202, 209, 439), 503),
    344: 400,
    354: 400,
    396: 413,
}


class EngineError(Exception):
    """ClickHouse's exception text, with its code."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(text)
        self.code = code
        self.text = text

    @property
    def status(self) -> int:
        """The HTTP status."""
        return STATUS.get(self.code, 500)


def clickhouse_error(code: int, text: str, name: str) -> EngineError:
    """Return an error of the endpoint in ClickHouse's wording."""
    return EngineError(code, f"Code: {code}. DB::Exception: {text} ({name})\n")


def engine_error(error: Exception, version: str) -> EngineError:
    """Return an engine's exception in ClickHouse's format, its code first."""
    text = OWN_CLAUSE.sub(" ", str(error))
    match = CODE.search(text)
    code = int(match.group(1)) if match else 1002
    start = text.find("Code: ")
    # Exceptions of libraries come as `std::exception. Code: 1001, type: ...`; ClickHouse prints its code first too.
    text = text[start:] if match and f"Code: {code}." in text else f"Code: {code}. DB::Exception: {text}"
    text = TWICE.sub(r"\1", text)
    if "(version " not in text:
        text += f" (version {version})"
    return EngineError(code, text.rstrip() + "\n")
