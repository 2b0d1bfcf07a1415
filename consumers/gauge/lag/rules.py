"""What state a group is in on one partition: numbered rules, the first that speaks decides. Pure; wall-clock windows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from typing import NamedTuple


class LagState(StrEnum):
    """What a person should think of it."""

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
"""Mildest first."""


class Sample(NamedTuple):
    """One observation of a partition and a group's place on it. Times in seconds."""

    at: float
    start: int
    stable: int
    high: int
    committed: int
    """The first record not yet read; the partition's start where the group has committed nothing."""
    behind_s: float | None = None
    """Age of the record at `committed`; 0 where nothing waits, None where nobody knows."""

    @property
    def lag(self) -> int:
        """Records that wait and can be read."""
        return max(0, self.stable - self.committed)


@dataclass(frozen=True, slots=True)
class LagLimits:
    """When patience ends. Seconds of wall-clock time."""

    slo_s: float = 60.0
    """Time lag that is still in order."""
    warn_s: float = 300.0
    stalled_s: float = 120.0
    grace_s: float = 120.0
    hung_s: float = 60.0
    """Longer than any transaction may live."""
    rewind_shown_s: float = 120.0
    rate_s: float = 60.0
    loss_share: float = 0.8

    @property
    def remember_s(self) -> float:
        """How far back samples are needed."""
        return max(self.warn_s, self.stalled_s, self.hung_s, self.rewind_shown_s, self.rate_s)


@dataclass(frozen=True, slots=True)
class LagCase:
    """All that the rules look at."""

    samples: Sequence[Sample]
    """Oldest first; the last is now."""
    members: int | None
    rebalanced_at: float | None
    sibling_moved: bool
    """Whether the group got on with another partition of this topic within `stalled_s`."""
    limits: LagLimits

    @property
    def now(self) -> Sample:
        """The newest sample."""
        return self.samples[-1]

    @property
    def in_grace(self) -> bool:
        """Whether the group was rebalanced so lately that standing still means nothing."""
        return self.rebalanced_at is not None and self.now.at - self.rebalanced_at < self.limits.grace_s


@dataclass(frozen=True, slots=True)
class LagVerdict:
    """A state, why, and how long until nothing waits (None where that cannot be said)."""

    state: LagState
    detail: str
    eta_s: float | None = None


def window(samples: Sequence[Sample], seconds: float) -> Sequence[Sample] | None:
    """The samples of the last `seconds`, the one at its beginning included; None where we did not watch all that time."""
    begin = samples[-1].at - seconds
    first = next((i for i in range(len(samples) - 1, -1, -1) if samples[i].at <= begin), None)
    if first is None:
        return None
    watched = samples[first:]
    # After a pause of ours (a laptop's sleep) the clock has moved but nobody has looked.
    gap = max(after.at - before.at for before, after in pairwise(watched))
    return watched if len(watched) >= 3 and gap <= seconds / 2 else None


def rates(samples: Sequence[Sample], seconds: float) -> tuple[float, float]:
    """(records a second written, records a second read) over the last `seconds`, or what there is of them."""
    now = samples[-1]
    first = next((sample for sample in samples if sample.at >= now.at - seconds), now)
    elapsed = now.at - first.at
    if elapsed <= 0:
        return 0.0, 0.0
    return max(0, now.stable - first.stable) / elapsed, max(0, now.committed - first.committed) / elapsed


def moved(samples: Sequence[Sample], seconds: float) -> bool:
    """Whether the group got on at all within the last `seconds`."""
    begin = samples[-1].at - seconds
    recent = [sample.committed for sample in samples if sample.at >= begin]
    return any(after > before for before, after in pairwise(recent))


def data_loss_risk(case: LagCase) -> LagVerdict | None:
    """Rule 1 - DATA_LOSS_RISK: records are deleted before they are read, or soon will be.

    Only on partitions where something has been deleted already: on a young topic every first reader lags by 100 %.
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
    """Rule 2 - REWIND: the committed offset went back, so records are read again (or the topic was made anew)."""
    begin = case.now.at - case.limits.rewind_shown_s
    for before, after in pairwise(case.samples):
        if after.at >= begin and after.committed < before.committed:
            return LagVerdict(LagState.REWIND, f"went back by {before.committed - after.committed:,} records")
    return None


def hung_transaction(case: LagCase) -> LagVerdict | None:
    """Rule 3 - HUNG_TXN: an open transaction has held back all readers for `hung_s`."""
    watched = window(case.samples, case.limits.hung_s)
    if watched is None or any(s.high <= s.stable or s.stable != case.now.stable for s in watched):
        return None
    blocked = case.now.high - case.now.stable
    return LagVerdict(
        LagState.HUNG_TXN, f"an open transaction holds back {blocked:,} records for {case.limits.hung_s:.0f} s or more"
    )


def nothing_waits(case: LagCase) -> LagVerdict | None:
    """Rule 4 - OK: all that can be read is read. An idle topic ends here."""
    return LagVerdict(LagState.OK, "up to date", 0.0) if not case.now.lag else None


def stopped(case: LagCase) -> LagVerdict | None:
    """Rule 5 - STOPPED: records wait and the group has no members.

    No grace: with static membership a worker that is started again keeps its membership until its session ends.
    """
    return LagVerdict(LagState.STOPPED, f"no worker; {case.now.lag:,} records wait") if case.members == 0 else None


def stands_still(case: LagCase) -> bool:
    """Records waited all through `stalled_s`, we watched, and not one was read."""
    watched = window(case.samples, case.limits.stalled_s)
    if watched is None or case.in_grace:
        return False
    return all(s.lag and s.committed == case.now.committed for s in watched)


def stuck_partition(case: LagCase) -> LagVerdict | None:
    """Rule 6 - STUCK_PARTITION: this partition stands still while the group gets on with its others."""
    if not (case.sibling_moved and stands_still(case)):
        return None
    return LagVerdict(LagState.STUCK_PARTITION, f"stands still at offset {case.now.committed:,} while its siblings move")


def stalled(case: LagCase) -> LagVerdict | None:
    """Rule 7 - STALLED: the head moves, the offset does not."""
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
    """Rule 9 - CATCHING_UP: the time lag is over its limit, or its age is not known yet, and nothing above is wrong."""
    behind, eta = case.now.behind_s, _eta(case)
    if behind is not None and behind <= case.limits.slo_s:
        return None
    if case.in_grace and eta is None:
        return LagVerdict(LagState.CATCHING_UP, "workers have just shared their partitions anew")
    return LagVerdict(LagState.CATCHING_UP, "catching up" if eta is not None else "behind; no estimate yet", eta)


def within_limit(case: LagCase) -> LagVerdict | None:
    """Rule 10 - OK: records wait, but none longer than the limit."""
    return LagVerdict(LagState.OK, "within its limit", _eta(case))


def _eta(case: LagCase) -> float | None:
    """Seconds until nothing waits, at the pace of the last minute; None where the lag does not shrink."""
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
    """The verdict of the first rule that speaks; the last one always does."""
    return next(verdict for rule in RULES if (verdict := rule(case)) is not None)
