"""Answers one request: pseudonym, consent, rules, log, token. Knows no HTTP."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, NamedTuple

from consumers.decisions.consent import ConsentQuery
from consumers.decisions.log import DecisionLog, DecisionRecord, uuid7
from consumers.decisions.request import DecideRequest
from consumers.decisions.rules import DecisionInput, decide, fallback_choice
from consumers.decisions.snapshots import Snapshots
from infra.telemetry.metrics import Metrics
from streams.bandit.catalogue import Catalogue
from streams.bandit.experiment import Experiment
from streams.bandit.token import DecisionRef, sign
from streams.collector.signals.signals import add_gpc


class Visitor(NamedTuple):
    """The pseudonyms of a cookie value, as in the collector."""

    pseudonym: str | None
    """Under the oldest key version in use, so that groups are stable while keys rotate; None = the value is junk."""
    nodes: Sequence[str]
    """Under every key version that ever existed: a refusal may be stored under any of them."""


NOBODY = Visitor(None, ())


class Dependencies(NamedTuple):
    """What the service needs of other rooms."""

    identify_visitor: Callable[[str], Visitor]
    """cookie value -> pseudonyms."""
    grants_personalization: Callable[[ConsentQuery, int], Awaitable[bool]]
    """(query, milliseconds UTC) -> whether personalization is granted."""
    token_key: bytes


class DecisionQuery(NamedTuple):
    """A request with the facts of its headers."""

    request: DecideRequest
    region: str
    gpc: str
    """`Sec-GPC` as sent; empty where it is absent or no objection."""
    origin: str = ""
    """The header `Origin`; empty where the request has none."""


class UnknownExperiment(LookupError):
    """No experiment of this key is published."""


class DecisionService:
    """Answers decision requests."""

    def __init__(
        self, catalogue: Catalogue, snapshots: Snapshots, log: DecisionLog, dependencies: Dependencies, metrics: Metrics
    ) -> None:
        self._catalogue = catalogue
        self._snapshots = snapshots
        self._log = log
        self._dependencies = dependencies
        self._metrics = metrics

    async def answer(self, query: DecisionQuery, now_ms: int) -> dict[str, Any]:
        """Return the answer's JSON. Raises UnknownExperiment."""
        request = query.request
        experiment = self._catalogue.get(request.experiment)
        if experiment is None:
            raise UnknownExperiment(request.experiment)
        decision_input = await self._build_input(query, now_ms)
        choice = decide(experiment, self._snapshots.get(experiment.key), decision_input, now_ms)
        # Without consent not even the visitor's pseudonym may be stored.
        visitor = decision_input.visitor if decision_input.personalization and choice.counts else None
        decision = DecisionRecord(uuid7(now_ms), visitor or "", choice, now_ms)
        if not self._log.append(experiment, decision) and choice.counts:
            # A decision that is not logged must not be learned from.
            decision = decision._replace(visitor="", choice=fallback_choice(experiment, "fallback"))
        self._metrics.count(
            "headwater_decisions_total",
            experiment=experiment.key,
            group=decision.choice.group,
            reason=decision.choice.reason,
        )
        return self._build_answer(experiment, decision)

    async def _build_input(self, query: DecisionQuery, now_ms: int) -> DecisionInput:
        request = query.request
        signals = add_gpc(request.consent, query.gpc) if query.gpc else request.consent
        visitor = self._dependencies.identify_visitor(request.visitor) if request.visitor else NOBODY
        consent = ConsentQuery(signals, query.region, query.origin, visitor.nodes)
        granted = await self._dependencies.grants_personalization(consent, now_ms)
        candidates = None if request.candidates is None else tuple(request.candidates)
        return DecisionInput(visitor.pseudonym if granted else None, granted, request.values(), candidates)

    def _build_answer(self, experiment: Experiment, decision: DecisionRecord) -> dict[str, Any]:
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
            # A decision that is not learned from gets no token.
            "token": sign(self._dependencies.token_key, ref) if choice.counts else "",
        }
