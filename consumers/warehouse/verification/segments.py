"""Splits a verification into ranges of offsets, and merges the results of neighbours. Pure."""

from collections.abc import Iterable, Iterator

from consumers.warehouse.verification.results import OffsetRange, Verification

MAX_MERGED = 1_000_000
"""Most offsets of one result: all of them are compared again while one row is wrong."""


def segments(requested: OffsetRange, faults: Iterable[OffsetRange], committed: int) -> list[tuple[OffsetRange, bool]]:
    """(range, whether it was wrong) in order: every range that was wrong, and the requested offsets between them.

    Ranges beyond the committed offset are left out until the loader has read them again.
    """
    cut, at = [], requested.first
    for fault in sorted(faults):
        if fault.end > committed:
            continue
        if at < min(fault.first, requested.end):
            cut.append((OffsetRange(at, min(fault.first, requested.end)), False))
        cut.append((fault, True))
        at = max(at, fault.end)
    if at < requested.end:
        cut.append((OffsetRange(at, requested.end), False))
    return cut


def merged(results: Iterable[Verification]) -> Iterator[Verification]:
    """Merge neighbouring results that are all exact or all wrong, up to `MAX_MERGED` offsets."""
    pending: Verification | None = None
    for result in results:
        if pending is None:
            pending = result
        elif (
            pending.exact == result.exact
            and pending.to_offset == result.from_offset
            and result.to_offset - pending.from_offset <= MAX_MERGED
        ):
            pending += result
        else:
            yield pending
            pending = result
    if pending is not None:
        yield pending


def total(results: Iterable[Verification]) -> Verification | None:
    """Combine all results of one partition; None without any."""
    whole: Verification | None = None
    for result in results:
        whole = result if whole is None else whole + result
    return whole
