"""Reads the dead letters on `events.dead` and selects among them."""

from collections.abc import Iterator
from typing import Any, NamedTuple

from infra.errors import ConfigError
from infra.parsing.times import parse_moment
from infra.settings import Settings

DEAD = "events.dead"

Letter = dict[str, Any]
"""A record of `events.dead` with its position: `dead_partition`, `dead_offset`."""
MARGIN_MS = 60_000
"""Milliseconds by which a letter's own time may precede the timestamp of its record."""


class LetterFilter(NamedTuple):
    """Criteria for letters; None matches any."""

    stage: str | None
    reason: str | None
    source: str | None
    topic: str | None
    since: int
    """Milliseconds UTC."""
    until: int | None

    def matches(self, letter: Letter) -> bool:
        """Return whether a letter meets all criteria."""
        criteria = (("stage", self.stage), ("reason", self.reason), ("source", self.source), ("source_topic", self.topic))
        in_time = self.since <= letter["dead_ts"] and (self.until is None or letter["dead_ts"] < self.until)
        return in_time and all(value is None or letter[name] == value for name, value in criteria)


def letter_filter(options: dict[str, str | None], now_ms: int) -> LetterFilter:
    """Build the filter from a command's options. ConfigError for an unreadable time."""
    since, until = (_parse_time(name, options.pop(name), now_ms) for name in ("since", "until"))
    if since is not None and until is not None and since >= until:
        raise ConfigError("--since is not before --until: no letter can match")
    return LetterFilter(options["stage"], options["reason"], options["source"], options["topic"], since or 0, until)


def _parse_time(name: str, text: str | None, now_ms: int) -> int | None:
    if text is None:
        return None
    moment = parse_moment(text, now_ms)
    if moment is None:
        raise ConfigError(
            f"--{name} {text[:40]!r} is no time: give an ISO time (2026-11-30T14:00, UTC unless it names a zone), or how long "
            "ago it was (90s, 30m, 2h, 3d)"
        )
    return moment


class LetterScan:
    """The dead letters on the topic at the time of construction; later ones are left to the next run. Retryable."""

    def __init__(self, settings: Settings, since: int = 0) -> None:
        from streams.runtime.follow import topic_partitions, written_range

        self._settings = settings
        self._since = max(0, since - MARGIN_MS)
        partitions = topic_partitions(settings, DEAD)
        self._ranges = {partition: written_range(settings, DEAD, partition, self._since) for partition in partitions}
        self.total = sum(end - first for first, end in self._ranges.values())
        """Number of offsets, an upper bound of the number of letters."""
        self.scanned = 0

    def letters(self) -> Iterator[Letter]:
        """Yield each letter with its position (`dead_partition`, `dead_offset`)."""
        from schemas.codec import decode
        from schemas.registry import Registry
        from streams.runtime.follow import read_messages

        registry, before = Registry(self._settings.contracts), 0
        for partition, (first, end) in self._ranges.items():
            for messages in read_messages(self._settings, DEAD, partition, self._since):
                for message in messages:
                    if message.offset() < end:
                        self.scanned = before + message.offset() + 1 - first
                        _, record = decode(registry, message.value() or b"")
                        yield {**record, "dead_partition": partition, "dead_offset": message.offset()}
            self.scanned = before = before + end - first
