"""Joins an event to the decision that it answers, as an exposure or a reward. Pure."""

from typing import Literal, NamedTuple

from schemas.codec import Record
from streams.bandit.catalogue import Catalogue
from streams.bandit.token import DecisionRef, verify

AHEAD_MS = 300_000
"""Milliseconds by which a decision's clock may be ahead of the collector's."""

Verdict = Literal["exposure", "reward", "other", "no_decision", "forged", "unknown_experiment", "out_of_window", "imported"]
"""`forged`: a token that this installation did not sign, or one from the future. `imported`: history, which answers none."""


class JoinResult(NamedTuple):
    """The verdict on one event and, for an exposure or a reward, the record for `bandit.outcomes`."""

    verdict: Verdict
    outcome: Record | None = None


def join(key: bytes, catalogue: Catalogue, event: Record) -> JoinResult:
    """Join one event (the head of an `events.resolved` record) to its decision by the token."""
    token = event["decision_token"]
    if not token:
        return JoinResult("no_decision")
    ref = verify(key, token)
    if ref is None or ref.decided_ts > event["collector_ts"] + AHEAD_MS:
        return JoinResult("forged")
    experiment = catalogue.get(ref.experiment)
    if experiment is None:
        return JoinResult("unknown_experiment")
    name = event["event_name"]
    if name not in (experiment.exposure, experiment.reward.event):
        return JoinResult("other")
    # The event happened after its decision and before its arrival, whatever the device's clock says.
    happened = max(ref.decided_ts, min(event["event_ts"], event["collector_ts"]))
    if happened - ref.decided_ts > experiment.window_ms:
        return JoinResult("out_of_window")
    if name == experiment.exposure:
        return JoinResult("exposure", _build_outcome(ref, event, "exposure", 0.0, happened))
    reward = 1.0 if experiment.reward.measure == "conversion" else float(event["value"])
    return JoinResult("reward", _build_outcome(ref, event, "reward", reward, happened))


def _build_outcome(ref: DecisionRef, event: Record, kind: str, reward: float, happened: int) -> Record:
    return {**ref._asdict(), "kind": kind, "reward": reward, "event_id": event["event_id"], "event_ts": happened}
