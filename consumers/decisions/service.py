"""From a request to an answer: pseudonym, consent, rules, log, token. No HTTP here."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from consumers.decisions.consent import ConsentQuestion
from consumers.decisions.log import DecisionLog, DecisionRecord, uuid7
from consumers.decisions.request import DecideRequest
from consumers.decisions.rules import Question, aside, decide
from consumers.decisions.snapshots import Snapshots
from infra.telemetry.metrics import Metrics
from streams.bandit.catalogue import Catalogue
from streams.bandit.experiment import Experiment
from streams.bandit.token import DecisionRef, sign
from streams.collector.signals.signals import with_objection


class Visitor(NamedTuple):
    """What the collector makes of a cookie value."""

    pseudonym: str | None
    """Of the versions of the keys in use the oldest, so that groups stay while keys rotate; None = it identifies nobody."""
    nodes: Sequence[str]
    """Under every version that there ever was: a refusal may be remembered under any."""


NOBODY = Visitor(None, ())


class Dependencies(NamedTuple):
    """What guards the entrance."""

    visitor: Callable[[str], Visitor]
    """Of a cookie value."""
    personalization: Callable[[ConsentQuestion, int], Awaitable[bool]]
    """(question, now) -> whether the consent room grants personalization."""
    token_key: bytes


class DecisionQuery(NamedTuple):
    """A request with what only the server knows."""

    request: DecideRequest
    region: str
    gpc: str
    """`Sec-GPC` as the browser sent it; empty where it objects to nothing."""
    origin: str = ""
    """Of the page; empty where the request names none."""


class UnknownExperiment(LookupError):
    """Nobody published an experiment of this key."""


class DecisionService:
    """Answers questions; one a process."""

    def __init__(
        self, catalogue: Catalogue, snapshots: Snapshots, log: DecisionLog, doors: Dependencies, metrics: Metrics
    ) -> None:
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._log = log
        self._doors = doors
        self._metrics = metrics

    async def answer(self, query: DecisionQuery, now_ms: int) -> dict[str, Any]:
        """The answer's JSON. UnknownExperiment."""
        request = query.request
        experiment = self._catalogue.get(request.experiment)
        if experiment is None:
            raise UnknownExperiment(request.experiment)
        question = await self._question(query, now_ms)
        choice = decide(experiment, self._snapshots.get(experiment.key), question, now_ms)
        # Without consent nothing of the visitor may be kept, not even her pseudonym.
        visitor = question.visitor if question.personalization and choice.counts else None
        decision = DecisionRecord(uuid7(now_ms), visitor or "", choice, now_ms)
        if not self._log.append(experiment, decision) and choice.counts:
            # A decision that is not logged must not be learned from.
            decision = decision._replace(visitor="", choice=aside(experiment, "fallback"))
        self._metrics.count(
            "headwater_decisions_total",
            experiment=experiment.key,
            group=decision.choice.group,
            reason=decision.choice.reason,
        )
        return self._told(experiment, decision)

    async def _question(self, query: DecisionQuery, now_ms: int) -> Question:
        request = query.request
        signals = with_objection(request.consent, query.gpc) if query.gpc else request.consent
        visitor = self._doors.visitor(request.visitor) if request.visitor else NOBODY
        consent = ConsentQuestion(signals, query.region, query.origin, visitor.nodes)
        granted = await self._doors.personalization(consent, now_ms)
        candidates = None if request.candidates is None else tuple(request.candidates)
        return Question(visitor.pseudonym if granted else None, granted, request.values(), candidates)

    def _told(self, experiment: Experiment, decision: DecisionRecord) -> dict[str, Any]:
        choice = decision.choice
        ref = DecisionRef(
            decision.decision_id,
            experiment.key,
            experiment.epoch,
            choice.arm,
            choice.group,
            choice.propensity,
            decision.decided_ts,
        )
        return {
            "decision_id": decision.decision_id,
            "arm": choice.arm,
            "payload": experiment.arm(choice.arm).payload_ref,
            "propensity": choice.propensity,
            "model_version": choice.snapshot_version,
            "config_version": experiment.version,
            "group": choice.group,
            "is_control": choice.group == "control",
            "reason": choice.reason,
            "ttl_s": experiment.ttl_s,
            # What is not learned from gets no token: there is nothing to echo.
            "token": sign(self._doors.token_key, ref) if choice.counts else "",
        }
