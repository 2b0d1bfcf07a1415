"""The ops page: renders readings as HTML under one sentence of overall health."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from consumers.gauge.lag.reading import GroupReading, LagReading
from consumers.gauge.lag.rules import SEVERITY, LagState
from consumers.gauge.page.topology import NARROW, WIDE, edge_readings
from consumers.gauge.recent import RecentActivity
from consumers.gauge.row_checks import RowCheck

HERE = Path(__file__).resolve().parent

LEGEND: Mapping[LagState, tuple[str, str]] = {
    LagState.OK: ("ok", "read up to date, or nothing waits longer than the limit"),
    LagState.CATCHING_UP: ("busy", "the oldest waiting record is over the limit; shown with the time it will take"),
    LagState.REWIND: ("busy", "the committed offset went back: records are read again"),
    LagState.WARN: ("warn", "over the limit for five minutes and not getting better"),
    LagState.HUNG_TXN: ("warn", "an open transaction holds back every reader"),
    LagState.STUCK_PARTITION: ("bad", "one partition stands still for two minutes while its siblings move"),
    LagState.STALLED: ("bad", "records keep coming and nothing is read for two minutes"),
    LagState.STOPPED: ("bad", "records wait and the group has no worker"),
    LagState.DATA_LOSS_RISK: ("bad", "retention deletes records before they are read, or is about to"),
}
"""State -> (level, meaning)."""

CALM = {"ok", "busy"}


@dataclass(frozen=True, slots=True)
class Headline:
    """The sentence of overall health and its level: ok, busy, warn, bad or unknown."""

    level: str
    text: str


def headline(reading: LagReading | None, now: float, stale_s: float) -> Headline:
    """Summarise a reading in one sentence. A reading older than `stale_s` seconds is `unknown`."""
    if reading is None:
        return Headline("unknown", "Kafka has not answered yet, so nothing is known.")
    if now - reading.at > stale_s:
        text = f"Kafka has not answered for {duration(now - reading.at)}; the figures below are from {clock(reading.at)}."
        return Headline("unknown", text)
    if not reading.groups:
        return Headline("unknown", "No consumer group of the house has been seen yet: no worker has started.")
    wrong = sorted((g for g in reading.groups if g.state is not LagState.OK), key=lambda g: -SEVERITY.index(g.state))
    serious = [group for group in wrong if LEGEND[group.state][0] not in CALM]
    if serious:
        count = "1 problem" if len(serious) == 1 else f"{len(serious)} problems"
        level = LEGEND[serious[0].state][0]
        return Headline(level, f"{count}: " + "; ".join(_complaint(group) for group in serious[:3]) + ".")
    if wrong:
        return Headline("busy", "Nothing is broken; " + "; ".join(_complaint(group) for group in wrong[:3]) + ".")
    slowest = max(reading.groups, key=lambda group: group.time_lag_s or 0.0)
    behind = slowest.time_lag_s or 0.0
    groups = "1 group is" if len(reading.groups) == 1 else f"all {len(reading.groups)} groups are"
    if behind < 1:
        return Headline("ok", f"All is well: {groups} up to date.")
    return Headline("ok", f"All is well: {groups} within the limit; {slowest.group} is {duration(behind)} behind.")


def with_row_checks(headline: Headline, row_checks: tuple[RowCheck, ...] | None) -> Headline:
    """Add wrong rows of the warehouse to the headline, as a problem beside any other."""
    wrong = [check for check in row_checks or () if check.faults]
    if not wrong:
        return headline
    text = "; ".join(f"rows of {check.topic} in ClickHouse: {check.text}" for check in wrong[:3])
    return Headline("bad", f"{text}." if headline.level == "ok" else f"{headline.text} Also, {text}.")


def _complaint(group: GroupReading) -> str:
    worst = group.worst
    assert worst is not None  # noqa: S101 - only a group with partitions can have another state than OK
    location = f" on {worst.topic}" + (f", partition {worst.partition}" if worst.state is LagState.STUCK_PARTITION else "")
    age = f", oldest {duration(group.time_lag_s)}" if group.time_lag_s else ""
    eta = f", done in about {duration(worst.eta_s)}" if worst.eta_s and worst.state is LagState.CATCHING_UP else ""
    detail = f"no worker, {group.lag:,} records wait" if worst.state is LagState.STOPPED else worst.detail
    return f"{group.group} is {words(worst.state)}{location} since {clock(worst.since)} ({detail}{age}{eta})"


def words(state: LagState) -> str:
    """Return a state in words."""
    return state.value.replace("_", " ")


def duration(seconds: float | None) -> str:
    """Format seconds: `0 s`, `0.4 s`, `12 s`, `3 min 20 s`, `2 h 5 min`, `3 d 4 h`; an en dash for None."""
    if seconds is None:
        return "–"
    if seconds == 0:
        return "0 s"
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for size, unit, part, small in ((86_400, "d", 3_600, "h"), (3_600, "h", 60, "min"), (60, "min", 1, "s")):
        if whole >= size:
            rest = whole % size // part
            return f"{whole // size} {unit}" + (f" {rest} {small}" if rest else "")
    return f"{whole} s"


def rate(per_second: float) -> str:
    """Format records a second."""
    return f"{per_second:,.0f}/s" if per_second >= 9.95 or per_second == 0 else f"{per_second:.1f}/s"


def clock(at: float) -> str:
    """Format the time of day, UTC."""
    return datetime.fromtimestamp(at, UTC).strftime("%H:%M:%S UTC")


def sparkline(series: tuple[int, ...], width: int = 180, height: int = 28) -> str:
    """Return the points of an SVG polyline; the largest value touches the top."""
    top = max(series) or 1
    step = width / max(1, len(series) - 1)
    return " ".join(f"{i * step:.1f},{height - 1 - (height - 2) * value / top:.1f}" for i, value in enumerate(series))


class Page:
    """Renders the page. Templates are loaded on first use."""

    def __init__(self, refresh_s: float, stale_s: float) -> None:
        self._refresh_s = refresh_s
        self._stale_s = stale_s
        env = Environment(
            loader=FileSystemLoader(HERE / "templates"),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        env.filters.update(duration=duration, rate=rate, clock=clock, words=words, sparkline=sparkline)
        env.globals.update(level=lambda state: LEGEND[state][0])
        self._env = env

    def render(
        self, reading: LagReading | None, recent: RecentActivity, now: float, row_checks: tuple[RowCheck, ...] | None = None
    ) -> str:
        """Return the HTML of the page at `now` (seconds UTC)."""
        context = self._context(reading, recent, now)
        context |= {"headline": with_row_checks(context["headline"], row_checks), "row_checks": row_checks}
        return self._env.get_template("page.html").render(**context)

    def sign_in(self) -> str:
        """Return the HTML of the sign-in page."""
        return self._env.get_template("sign_in.html").render()

    def _context(self, reading: LagReading | None, recent: RecentActivity, now: float) -> dict[str, Any]:
        dead_by_stage: Counter[str] = Counter()
        for (stage, _, _), n in recent.dead:
            dead_by_stage[stage] += n
        return {
            "now": now,
            "refresh_s": max(2, round(self._refresh_s)),
            "headline": headline(reading, now, self._stale_s),
            "reading": reading,
            "recent": recent,
            "drawings": [(drawing, edge_readings(drawing, reading)) for drawing in (WIDE, NARROW)],
            "dead_by_stage": dead_by_stage,
            "dead_total": sum(n for _, n in recent.dead),
            "dead_most": max((n for _, n in recent.dead), default=1),
            "overdue": [request for request in recent.pending if request.overdue(int(now * 1000))],
            "legend": LEGEND,
        }
