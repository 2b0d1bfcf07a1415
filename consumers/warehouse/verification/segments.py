"""Which ranges of offsets a verification compares, and how results of neighbours are put together. Pure."""

from collections.abc import Iterable, Iterator

from consumers.warehouse.verification.results import OffsetRange, Verification

MAX_MERGED = 1_000_000
"""Offsets of one result: so much is compared again while one of its rows is wrong."""


def segments(requested: OffsetRange, faults: Iterable[OffsetRange], committed: int) -> list[tuple[OffsetRange, bool]]:
    """(range, whether it was wrong) in order: every range that was wrong, whole, and what is wanted between them.

    Ranges that reach beyond the committed offset wait for the loader: it reads them again.
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
    """Neighbours that are all in order, or all wrong, as one result of at most `MAX_MERGED` offsets."""
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
    """All results of one partition as one; None for none."""
    whole: Verification | None = None
    for result in results:
        whole = result if whole is None else whole + result
    return whole
