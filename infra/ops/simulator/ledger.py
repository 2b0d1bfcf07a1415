"""The ledger file: one JSON line for the run, one per event, decision and refusal, one at the end.

Lines contain no clear identifier: a person is `person-<n>`.
"""

from array import array
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import orjson

from infra.errors import ConfigError
from infra.ops.simulator.marks import event_number

VERSION = 2
FATES = ("", "resolved", "anonymised", "dead", "poison", "refused")
"""Expected outcomes by their code in `LedgerIndex.fates`; 0 = the ledger has no such event."""
ABSENT, RESOLVED, ANONYMISED, DEAD, POISON, REFUSED = range(6)
FILE_NAMES = {"attempts": "sent"}
"""Field -> its key in the file, where they differ."""


@dataclass(frozen=True, slots=True)
class RunLine:
    """The first line."""

    run: str
    seed: int
    events: int
    started: int
    """Milliseconds UTC."""
    version: int = VERSION


@dataclass(frozen=True, slots=True)
class EventLine:
    """An event, its deliveries, the collector's answer, and its expected outcome."""

    n: int
    id: str
    door: str
    name: str
    attempts: int
    """Deliveries."""
    acked: int
    status: int
    """The last HTTP status; 0 = no response."""
    fate: str
    outcome: str
    mask: int
    account: str
    """The person, where the event carried the account id."""
    decision: str
    """Decision whose token the event carried."""
    refusal: int = -1
    """Number of the refusal that the event is or follows; -1 = none."""


@dataclass(frozen=True, slots=True)
class DecisionLine:
    """A decision that the API returned."""

    id: str
    experiment: str
    arm: str
    group: str
    learns: bool
    """It has a token, so exposures and rewards count."""
    granted: bool
    """The visitor has granted personalization."""


@dataclass(frozen=True, slots=True)
class RefusalLine:
    """A simulated refusal. Its effect on each event is part of that event's line."""

    number: int
    channel: str
    consented_again: bool


@dataclass(frozen=True, slots=True)
class EndLine:
    """The last line; it is missing where the run was interrupted."""

    ended: int
    events: int
    acknowledged: int
    open: int
    """Events that were neither acknowledged nor refused."""


class Writer:
    """Writes a ledger, line by line."""

    def __init__(self, file: Path, run: RunLine) -> None:
        try:
            self._out: BinaryIO = file.open("wb", buffering=1 << 20)
        except OSError as error:
            raise ConfigError(f"{file}: {error.strerror}") from error
        self.write("run", run)

    def write(self, kind: str, line: RunLine | EventLine | DecisionLine | RefusalLine | EndLine) -> None:
        """Append one line."""
        fields = {FILE_NAMES.get(name, name): value for name, value in asdict(line).items()}
        self._out.write(orjson.dumps({"kind": kind, **fields}, option=orjson.OPT_APPEND_NEWLINE))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._out.close()


@dataclass
class LedgerIndex:
    """A ledger in memory, a few bytes per event."""

    run: RunLine
    fates: bytearray
    masks: bytearray
    acked: bytearray
    """Acknowledgements per event, up to 255."""
    attempts: bytearray
    """Deliveries per event, up to 255."""
    answered: bytearray
    """1 where the last delivery was accepted or refused, so that a dead letter must be there already.

    Of a request without a known key (401) nothing is kept: a Snowplow item that is no object has no app id.
    """
    accounts: "array[int]"
    """Account number per event; -1 = none."""
    after: "array[int]" = field(default_factory=lambda: array("i"))
    """Number of the refusal that each event follows; -1 = none."""
    refusals: dict[int, RefusalLine] = field(default_factory=dict)
    """Refusals by number."""
    aliases: dict[str, int] = field(default_factory=dict)
    """Event ids derived by the collector for protocols without client ids -> event number."""
    decisions: dict[str, bool] = field(default_factory=dict)
    """Decision -> whether it may be learned from: it has a token, and personalization was granted."""
    ungranted: set[str] = field(default_factory=set)
    """Decisions for visitors without consent to personalization."""
    tracked: set[str] = field(default_factory=set)
    """Those of them that have a token nevertheless."""
    exposures: dict[str, str] = field(default_factory=dict)
    """Decision -> `widget_viewed` event that must count as its exposure."""
    rewards: dict[str, str] = field(default_factory=dict)
    """Decision -> `purchase` event that must count as its reward."""
    ended: int | None = None

    def number(self, identifier: str) -> int | None:
        """Return the number of an event id of this run; None for any other id."""
        n = event_number(self.run.run, identifier)
        return self.aliases.get(identifier) if n is None else n

    def fate(self, n: int) -> int:
        """Return the expected outcome's code; ABSENT for an unknown number."""
        return self.fates[n] if n < len(self.fates) else ABSENT


def read_ledger(file: Path) -> LedgerIndex:
    """Load a ledger. ConfigError for any other file."""
    lines = _lines(file)
    first = next(lines, {})
    if first.pop("kind", None) != "run" or first.get("version") != VERSION:
        raise ConfigError(f"{file} is no ledger of version {VERSION}: `headwater simulate --ledger {file}` writes one")
    run = RunLine(**first)
    size = run.events
    expected = LedgerIndex(
        run,
        bytearray(size),
        bytearray(size),
        bytearray(size),
        bytearray(size),
        bytearray(size),
        array("i", [-1]) * size,
        array("i", [-1]) * size,
    )
    people: dict[str, int] = {}
    for line in lines:
        match line.pop("kind"):
            case "event":
                _add_event(expected, _event_line(line), people)
            case "decision":
                _add_decision(expected, DecisionLine(**line))
            case "refusal":
                expected.refusals[line["number"]] = RefusalLine(**line)
            case "end":
                expected.ended = line["ended"]
    return expected


def _lines(file: Path) -> Iterator[dict[str, Any]]:
    try:
        with file.open("rb") as source:
            for number, line in enumerate(source, 1):
                try:
                    yield orjson.loads(line)
                except orjson.JSONDecodeError:
                    raise ConfigError(f"{file}, line {number} is no JSON") from None
    except OSError as error:
        raise ConfigError(f"cannot read the ledger {file}: {error.strerror}") from None


def _event_line(line: dict[str, Any]) -> EventLine:
    return EventLine(**{name: line.pop(key) for name, key in FILE_NAMES.items()}, **line)


def _add_decision(expected: LedgerIndex, line: DecisionLine) -> None:
    expected.decisions[line.id] = line.learns and line.granted
    if not line.granted:
        expected.ungranted.add(line.id)
        if line.learns:
            expected.tracked.add(line.id)


def _add_event(expected: LedgerIndex, line: EventLine, people: dict[str, int]) -> None:
    n = line.n
    expected.fates[n] = FATES.index(line.fate)
    expected.masks[n] = line.mask
    expected.acked[n] = min(255, line.acked)
    expected.attempts[n] = min(255, line.attempts)
    expected.answered[n] = 200 <= line.status < 500 and line.status not in (401, 429)
    expected.after[n] = line.refusal
    if line.account:
        expected.accounts[n] = people.setdefault(line.account, len(people))
    if event_number(expected.run.run, line.id) is None:
        expected.aliases[line.id] = n
    if line.decision and line.acked and line.fate == "resolved":
        joined = expected.exposures if line.name == "widget_viewed" else expected.rewards
        joined[line.decision] = line.id
