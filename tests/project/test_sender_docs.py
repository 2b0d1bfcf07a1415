"""The pages for senders are true: their examples are sent to a collector, and become the columns that their tables promise.

A comment in front of a fenced block says what is done with it:
`example: POST /v1/events as server` sends JSON (`answers 400 CONTRACT` expects a refusal), `run` executes the block, `check`
parses JavaScript. A table `Field | Column | Value` below speaks of the record of the block above.
"""

import ast
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import orjson
import pytest

from infra.http.cors import AllowedOrigins
from schemas.codec import decode
from streams.collector.http.options import CollectorOptions
from tests.infra.gtm.checker import node_and_npm
from tests.streams.collector.http.served import ServedCollector

FOLDER = Path(__file__).resolve().parents[2] / "docs" / "senders"
PAGES = sorted(FOLDER.glob("*.md"))
PART = re.compile(
    r"<!-- (?P<marker>[^>]+) -->\n+```(?P<language>\w+)\n(?P<code>.*?)^```$"
    r"|^\| Field \| Column \| Value \|\n\|[-|]+\|\n(?P<table>(?:\|[^\n]*\n)+)",
    re.DOTALL | re.MULTILINE,
)
MARKER = re.compile(r"example: (GET|POST) (\S+)( as (?:server|browser))?(?: answers (\d+)(?: (\w+))?)?")
CELLS = re.compile(r"^\| (.+?) \| `(.+?)` \| (.+?) \|$", re.MULTILINE)
PLACE = re.compile(r"(\w+)((?:\[[^\]]+\])*)")
ADDRESS = "https://collect.shop.example"
PSEUDONYMS = "pseudonyms"
"""In place of a value: as many nodes as the identifiers that stand in the table."""
MOST_LINES = 150


class Part(NamedTuple):
    """A block with its marker, or a table."""

    marker: str
    language: str
    code: str
    table: str


def parts_of(page: Path) -> list[Part]:
    """Return the parts of a page in order."""
    return [Part(*(text or "" for text in match.groups())) for match in PART.finditer(page.read_text())]


@pytest.fixture(scope="module")
def collector(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServedCollector]:
    """A collector that shows previews, behind a proxy that names the region."""
    options = CollectorOptions("X-Region", origins=AllowedOrigins(["https://shop.example"]), micro=True)
    with ServedCollector(tmp_path_factory.mktemp("senders"), options) as served:
        yield served


def fill_in(code: str, collector: ServedCollector) -> str:
    """Return a snippet with address and keys of this collector."""
    code = code.replace(ADDRESS, f"http://127.0.0.1:{collector.port}")
    return code.replace("hw_server_key", collector.other_key).replace("hw_browser_key", collector.key)


def send_example(part: Part, collector: ServedCollector) -> None:
    """Send a block of JSON, and compare the answer with the marker's."""
    match = MARKER.fullmatch(part.marker)
    assert match is not None, part.marker
    method, path, kind, status, code = match.groups()
    key = {" as server": collector.other_key, " as browser": collector.key}.get(kind or "", "")
    headers = {"Authorization": f"Bearer {key}"} if key else {}
    text = fill_in(part.code, collector)
    body = text.strip().encode() if part.language == "text" else orjson.dumps(orjson.loads(text))
    answer = collector.send(method, fill_in(path, collector), body, headers)
    assert answer.status == int(status or 200), answer.body
    assert not code or answer.json["code"] == code
    assert status or b'"refused":[{' not in answer.body, answer.body


def run(part: Part, collector: ServedCollector, folder: Path) -> None:
    """Execute a block in a process of its own."""
    node = node_and_npm()[0][0]
    interpreter, suffix = {"sh": ("bash", "sh"), "python": (sys.executable, "py"), "js": (node, "mjs")}[part.language]
    file = folder / f"snippet.{suffix}"
    file.write_text(fill_in(part.code, collector))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    result = subprocess.run(
        [interpreter, str(file)],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
        cwd=folder,
        env={**os.environ, "PATH": path, "NODE_DISABLE_COMPILE_CACHE": "1"},
    )
    assert result.returncode == 0, result.stderr
    assert collector.sink.records, "nothing arrived"


def check(part: Part, folder: Path) -> None:
    """Parse a block of JavaScript for browsers."""
    file = folder / "snippet.js"
    file.write_text(part.code)
    result = subprocess.run([*node_and_npm()[0], "--check", str(file)], capture_output=True, text=True, check=False, timeout=60)
    assert result.returncode == 0, result.stderr


def take_records(collector: ServedCollector) -> list[dict[str, Any]]:
    """Return the events and choices since the last call. A dead letter is an example that does not work."""
    topics = ("events.raw", "consent.signals")
    records = [decode(collector.registry, record.value)[1] for record in collector.sink.records if record.topic in topics]
    assert all(record.topic != "events.dead" for record in collector.sink.records)
    collector.sink.records.clear()
    return records


def look_up(record: dict[str, Any], place: str) -> Any:
    """Return the value at `column`, `map['key']` or `items[0]['price']`."""
    match = PLACE.fullmatch(place)
    assert match is not None, place
    value: Any = record[match[1]]
    for step in re.findall(r"\[([^\]]+)\]", match[2]):
        value = value[ast.literal_eval(step)]
    return value


def compare(table: str, records: list[dict[str, Any]]) -> None:
    """Compare the rows of a table with the record that the block above became."""
    rows = CELLS.findall(table)
    assert len(rows) == len(table.splitlines()), "each row has a field, a column in backticks and a value"
    assert records, "no block above became a record"
    for _, place, value in rows:
        if value == PSEUDONYMS:
            named = sum(other == PSEUDONYMS for _, _, other in rows)
            assert len(records[0][place]) == named
        else:
            actual = look_up(records[0], place)
            assert (actual if isinstance(actual, str) else orjson.dumps(actual).decode()) == value.strip("`"), place


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_examples_become_the_columns_of_the_tables(page: Path, collector: ServedCollector, tmp_path: Path) -> None:
    """Each block runs, in order, and each table is right."""
    collector.sink.records.clear()
    records: list[dict[str, Any]] = []
    for part in parts_of(page):
        if part.table:
            compare(part.table, records)
        elif part.marker == "check":
            check(part, tmp_path)
        elif part.marker == "run":
            run(part, collector, tmp_path)
            records = take_records(collector)
        else:
            send_example(part, collector)
            if " answers 4" in part.marker or "/debug/" in part.marker:
                collector.sink.records.clear()
            else:
                records = take_records(collector)
                assert records


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.stem)
def test_every_block_is_marked(page: Path) -> None:
    """Code that nobody runs goes stale; `text` and commands of `headwater` are shown only. A page has under 150 lines."""
    text = page.read_text()
    blocks = re.findall(r"(^<!-- .* -->\n+)?^```(\w+)\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    assert [code for marker, language, code in blocks if not marker and language != "text" and "headwater " not in code] == []
    assert len(text.splitlines()) < MOST_LINES


def test_the_index_names_every_page() -> None:
    """And the main README the index."""
    index = (FOLDER / "README.md").read_text()
    assert [page.name for page in PAGES if page.name != "README.md" and f"({page.name})" not in index] == []
    assert "docs/senders/README.md" in (FOLDER.parents[1] / "README.md").read_text()
