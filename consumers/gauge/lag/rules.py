"""The state of a group on one partition: numbered rules, the first that matches decides. Pure; windows are wall-clock time."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple


class LagState(StrEnum):
    """States, mildest first."""

    OK = "OK"
    CATCHING_UP = "CATCHING_UP"
    REWIND = "REWIND"
    WARN = "WARN"
    HUNG_TXN = "HUNG_TXN"
    STUCK_PARTITION = "STUCK_PARTITION"
    STALLED = "STALLED"
    STOPPED = "STOPPED"
    DATA_LOSS_RISK = "DATA_LOSS_RISK"


SEVERITY = tuple(LagState)
"""Mildest first, worst last."""


class Sample(NamedTuple):
    """One observation of a partition and a group's offset on it. Times in seconds."""

    at: float
    start: int
    stable: int
    high: int
    committed: int
    """Offset of the first unread record; the partition's start where the group has no committed offset."""
    behind_s: float | None = None
    """Age of the record at `committed`; 0 where nothing waits, None where it is unknown."""

    @property
    def lag(self) -> int:
        """Number of records that wait and can be read."""
        return max(0, self.stable - self.committed)


@dataclass(frozen=True, slots=True)
class LagLimits:
    """Limits of the rules, in seconds of wall-clock time."""

    slo_s: float = 60.0
    """Highest acceptable time lag."""
    warn_s: float = 300.0
    stalled_s: float = 120.0
    grace_s: float = 120.0
    hung_s: float = 60.0
    """Longer than any transaction may be open."""
    rewind_shown_s: float = 120.0
    rate_s: float = 60.0
    loss_share: float = 0.8

    @property
    def remember_s(self) -> float:
        """Seconds for which samples are needed."""
        return max(self.warn_s, self.stalled_s, self.hung_s, self.rewind_shown_s, self.rate_s)


@dataclass(frozen=True, slots=True)
class LagCase:
    """The input of the rules."""

    samples: Sequence[Sample]
    """Oldest first; the last one is now."""
    members: int | None
    rebalanced_at: float | None
    sibling_moved: bool
    """Whether the group advanced on another partition of this topic within `stalled_s`."""
    limits: LagLimits

    @property
    def now(self) -> Sample:
        """The newest sample."""
        return self.samples[-1]

    @property
    def in_grace(self) -> bool:
        """Whether the last rebalance is so recent that standing still means nothing."""
        return self.rebalanced_at is not None and self.now.at - self.rebalanced_at < self.limits.grace_s


@dataclass(frozen=True, slots=True)
class LagVerdict:
    """A state, its reason, and the seconds until nothing waits (None where unknown)."""

    state: LagState
    detail: str
    eta_s: float | None = None


def window(samples: Sequence[Sample], seconds: float) -> Sequence[Sample] | None:
    """Return the samples of the last `seconds`, with the one at the beginning; None where they do not cover the window."""
    begin = samples[-1].at - seconds
    first = next((i for i in range(len(samples) - 1, -1, -1) if samples[i].at <= begin), None)
    if first is None:
        return None
    watched = samples[first:]
    # After a pause of the gauge (a laptop's sleep) the clock has moved, but there are no samples.
    gap = max(after.at - before.at for before, after in pairwise(watched))
    return watched if len(watched) >= 3 and gap <= seconds / 2 else None


def rates(samples: Sequence[Sample], seconds: float) -> tuple[float, float]:
    """Return (records a second written, records a second read) over the last `seconds`, or what is covered of them."""
    now = samples[-1]
    first = next((sample for sample in samples if sample.at >= now.at - seconds), now)
    elapsed = now.at - first.at
    if elapsed <= 0:
        return 0.0, 0.0
    return max(0, now.stable - first.stable) / elapsed, max(0, now.committed - first.committed) / elapsed


def moved(samples: Sequence[Sample], seconds: float) -> bool:
    """Return whether the group advanced within the last `seconds`."""
    begin = samples[-1].at - seconds
    recent = [sample.committed for sample in samples if sample.at >= begin]
    return any(after > before for before, after in pairwise(recent))


def data_loss_risk(case: LagCase) -> LagVerdict | None:
    """Rule 1 - DATA_LOSS_RISK: records were deleted before they were read, or soon will be.

    Only on partitions where records have been deleted already: on a young topic every new group lags by 100 %.
    """
    now = case.now
    if now.start == 0 or not now.lag:
        return None
    deleted = now.start - now.committed
    if deleted > 0:
        return LagVerdict(LagState.DATA_LOSS_RISK, f"{deleted:,} records were deleted before they were read")
    share = now.lag / (now.stable - now.start)
    if share <= case.limits.loss_share:
        return None
    return LagVerdict(
        LagState.DATA_LOSS_RISK, f"{share:.0%} of what the topic still holds is unread: retention is close behind"
    )


def rewind(case: LagCase) -> LagVerdict | None:
    """Rule 2 - REWIND: the committed offset went back, so records are read again (or the topic was created again)."""
    begin = case.now.at - case.limits.rewind_shown_s
    for before, after in pairwise(case.samples):
        if after.at >= begin and after.committed < before.committed:
            return LagVerdict(LagState.REWIND, f"went back by {before.committed - after.committed:,} records")
    return None


def hung_transaction(case: LagCase) -> LagVerdict | None:
    """Rule 3 - HUNG_TXN: an open transaction has blocked all readers for `hung_s`."""
    watched = window(case.samples, case.limits.hung_s)
    if watched is None or any(s.high <= s.stable or s.stable != case.now.stable for s in watched):
        return None
    blocked = case.now.high - case.now.stable
    return LagVerdict(
        LagState.HUNG_TXN, f"an open transaction holds back {blocked:,} records for {case.limits.hung_s:.0f} s or more"
    )


def nothing_waits(case: LagCase) -> LagVerdict | None:
    """Rule 4 - OK: everything readable is read. This includes an idle topic."""
    return LagVerdict(LagState.OK, "up to date", 0.0) if not case.now.lag else None


def stopped(case: LagCase) -> LagVerdict | None:
    """Rule 5 - STOPPED: records wait and the group has no members.

    It has no grace period: with static membership a restarting worker stays a member until its session ends.
    """
    return LagVerdict(LagState.STOPPED, f"no worker; {case.now.lag:,} records wait") if case.members == 0 else None


def stands_still(case: LagCase) -> bool:
    """Return whether records waited throughout `stalled_s`, the samples cover it, and none was read."""
    watched = window(case.samples, case.limits.stalled_s)
    if watched is None or case.in_grace:
        return False
    return all(s.lag and s.committed == case.now.committed for s in watched)


def stuck_partition(case: LagCase) -> LagVerdict | None:
    """Rule 6 - STUCK_PARTITION: this partition stands still while the group advances on others of the topic."""
    if not (case.sibling_moved and stands_still(case)):
        return None
    return LagVerdict(LagState.STUCK_PARTITION, f"stands still at offset {case.now.committed:,} while its siblings move")


def stalled(case: LagCase) -> LagVerdict | None:
    """Rule 7 - STALLED: the end moves, the committed offset does not."""
    watched = window(case.samples, case.limits.stalled_s)
    if watched is None or not stands_still(case) or watched[0].stable == case.now.stable:
        return None
    return LagVerdict(LagState.STALLED, f"nothing read for {case.limits.stalled_s / 60:.0f} min while records keep coming")


def too_old(case: LagCase) -> LagVerdict | None:
    """Rule 8 - WARN: the time lag has been over its limit, and has not fallen, for `warn_s`."""
    watched = window(case.samples, case.limits.warn_s)
    if watched is None or case.in_grace:
        return None
    ages = [s.behind_s for s in watched if s.behind_s is not None]
    if len(ages) < len(watched) or min(ages) <= case.limits.slo_s or ages[-1] < ages[0] * 0.98:
        return None
    return LagVerdict(LagState.WARN, f"{ages[-1]:.0f} s behind and not getting better", _eta(case))


def catching_up(case: LagCase) -> LagVerdict | None:
    """Rule 9 - CATCHING_UP: the time lag is over its limit or unknown, and no rule above matches."""
    behind, eta = case.now.behind_s, _eta(case)
    if behind is not None and behind <= case.limits.slo_s:
        return None
    if case.in_grace and eta is None:
        return LagVerdict(LagState.CATCHING_UP, "workers have just shared their partitions anew")
    return LagVerdict(LagState.CATCHING_UP, "catching up" if eta is not None else "behind; no estimate yet", eta)


def within_limit(case: LagCase) -> LagVerdict | None:
    """Rule 10 - OK: records wait, none longer than the limit."""
    return LagVerdict(LagState.OK, "within its limit", _eta(case))


def _eta(case: LagCase) -> float | None:
    """Return the seconds until nothing waits, at the pace of the last minute; None where the lag does not shrink."""
    written_rate, read_rate = rates(case.samples, case.limits.rate_s)
    return case.now.lag / (read_rate - written_rate) if read_rate > written_rate else None


RULES: tuple[Callable[[LagCase], LagVerdict | None], ...] = (
    data_loss_risk,
    rewind,
    hung_transaction,
    nothing_waits,
    stopped,
    stuck_partition,
    stalled,
    too_old,
    catching_up,
    within_limit,
)


def judge(case: LagCase) -> LagVerdict:
    """Return the verdict of the first rule that matches; the last one always does."""
    return next(verdict for rule in RULES if (verdict := rule(case)) is not None)
