"""Turns the items of a request into Kafka records: accepted items, or dead letters with their bytes. Knows no HTTP."""

import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, NamedTuple

from infra.payload_keyring import PayloadKeyring
from infra.telemetry.metrics import Metrics
from schemas.boundary import ContractViolation
from schemas.codec import encode
from schemas.registry import Registry
from streams.collector.delivery.encoder import EventEncoder
from streams.collector.delivery.spool import SpoolRecord
from streams.collector.event import InvalidItem, Item, ProtocolEvent
from streams.collector.fields.repeated_keys import dumps
from streams.collector.http.rejections import RejectionReason
from streams.collector.masking import mask_choice
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import choices
from streams.collector.signals.choice_rules import ChoiceRules
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition

RAW, DEAD, SIGNALS = "events.raw", "events.dead", "consent.signals"
CHECK_S = 1.0
MAX_PREVIEWS = 1_000
MAX_TAG_VERSIONS = 200
"""Versions of tags that the metric of problems tells apart."""
MAX_DEAD_BYTES = 1_000_000
"""Bytes that a dead letter keeps; with its other fields it must fit into one record of Kafka."""

UNDATED_WARNING = (
    "chosen_ts cannot be read: a refusal counts from now, a grant as undated; send milliseconds since 1970 or ISO 8601"
)

ItemParser = Callable[[Any], Item]
ChoiceParser = Callable[[Any], choices.SentChoice | InvalidItem]


@dataclass(slots=True)
class IntakeResult:
    """The records of a request, and which of its items were accepted or refused."""

    records: list[SpoolRecord] = field(default_factory=list)
    accepted: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    """(index of the item, problem)."""
    warnings: list[tuple[int, str]] = field(default_factory=list)
    """(index of the item, what was read differently from how it was sent)."""
    protocols: Counter[str] = field(default_factory=Counter)
    """Accepted events by protocol."""
    sites: set[str] = field(default_factory=set)
    """Sites to which the accepted choices apply."""


class IntakePreview(NamedTuple):
    """One item as `/micro/*` shows it to people who set up tags (`--micro`)."""

    accepted: bool
    content: Mapping[str, Any]


class Intake:
    """Turns items into records of the newest contract, which is reloaded at most once a second."""

    def __init__(
        self, registry: Registry, keyring: PayloadKeyring, keys: NodeKeys, metrics: Metrics, rules: ChoiceRules | None = None
    ) -> None:
        self._registry = registry
        self._keys = keys
        self._dead_letters = DeadLetters(registry, keyring, "collector", metrics)
        self._metrics = metrics
        self._rules = rules
        self._checked_at = 0.0
        self._use_latest_contract()
        self._tag_versions: set[str] = set()
        self.on_preview: Callable[[IntakePreview], None] | None = None

    def _use_latest_contract(self) -> None:
        contract = self._registry.latest(RAW)
        self._normaliser = Normaliser(contract, self._keys)
        self._encoder = EventEncoder(contract)

    def _reload_contracts(self, now: float) -> None:
        if now - self._checked_at >= CHECK_S:
            self._checked_at = now
            if self._registry.reload():
                self._use_latest_contract()

    def accept_events(self, items: Iterable[Any], parse: ItemParser, request: RequestContext) -> IntakeResult:
        """Process the events of one request in order. No item makes it raise."""
        self._reload_contracts(time.monotonic())
        result, derived = IntakeResult(), Counter[bytes]()
        for index, raw in enumerate(items):
            item = parse(raw)
            if not isinstance(item, InvalidItem) and item.derive_from:
                item = _number_equal(item, derived)
            problem = item.detail if isinstance(item, InvalidItem) else self._accept_event(item, request, result)
            if problem:
                result.refused.append((index, problem))
                result.records.append(self._build_dead_letter(raw, problem, request))
                self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.CONTRACT)
                self._report_preview(False, {"problem": problem})
        for protocol, accepted in result.protocols.items():
            self._metrics.count("headwater_collected_total", accepted, protocol=protocol, source=request.source)
        return result

    def accept_choices(
        self, items: Iterable[Any], parse: ChoiceParser, request: RequestContext, body: bytes = b""
    ) -> IntakeResult:
        """Process the choices of one request for `consent.signals`. No item makes it raise.

        `body`: bytes of a request that is a single choice; its dead letter keeps them unchanged.
        """
        result = IntakeResult()
        for index, raw in enumerate(items):
            choice = parse(raw)
            problem = choice.detail if isinstance(choice, InvalidItem) else self._accept_choice(choice, index, request, result)
            if problem:
                result.refused.append((index, problem))
                result.records.append(self._build_dead_letter(raw, problem, request, body))
                self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.CONTRACT)
        return result

    def reject_body(
        self, body: bytes, problem: str, request: RequestContext, reason: RejectionReason = RejectionReason.CONTRACT
    ) -> IntakeResult:
        """Turn a body without items into one dead letter."""
        self._metrics.count("headwater_refused_total", door="collector", reason=reason)
        return IntakeResult([self._build_dead_letter(None, problem, request, body, reason)], refused=[(0, problem)])

    def _accept_choice(self, choice: choices.SentChoice, index: int, request: RequestContext, result: IntakeResult) -> str:
        """Append the choice's records to `result`. Returns why it cannot be used, or an empty text."""
        if self._rules is None:
            return "this collector has no consent policy"
        if problem := self._rules.problem(choice, request.source, request.now_ms):
            return problem
        choice = mask_choice(choice, request.ip, self._count_masked(request))
        records = choices.build_records(choice, self._keys, request.site, request.now_ms)
        if not records:
            return "it names nobody: give user_id, client_id or another identifier"
        contract = self._registry.latest(SIGNALS)
        try:
            encoded = [SpoolRecord(SIGNALS, key.encode(), encode(contract, record)) for key, record in records]
        except ValueError as error:  # half a surrogate pair in a JSON escape has no UTF-8
            return f"cannot be written: {type(error).__name__}"
        result.records += encoded
        result.accepted += 1
        if choice.chosen == choices.UNDATED:
            result.warnings.append((index, UNDATED_WARNING))
        result.sites.update(site for _, record in records for site in self._rules.covered_sites(record["site"]))
        self._metrics.count("headwater_collected_total", protocol="consent", source=request.source)
        return ""

    def _accept_event(self, event: ProtocolEvent, request: RequestContext, result: IntakeResult) -> str:
        """Append the event's record to `result`. Returns why it breaks the contract, or an empty text."""
        key, record = self._normaliser.build_record(event, request, self._count_masked(request))
        try:
            value = self._encoder.encode(record)
        except ContractViolation as error:
            return "; ".join(error.problems)
        except ValueError as error:  # half a surrogate pair in a JSON escape has no UTF-8
            return f"cannot be written: {type(error).__name__}"
        result.records.append(SpoolRecord(RAW, key.encode(), value))
        if self._rules is not None:
            self._rules.sites.add(record["site"])
        result.accepted += 1
        result.protocols[event.protocol] += 1
        if record["problems"]:
            self._count_problems(record)
        self._report_preview(True, record)
        return ""

    def _count_problems(self, record: Mapping[str, Any]) -> None:
        """Count the fields that did not fit. Tag versions are few; should somebody send many, the further ones are one."""
        version = record["tag_version"]
        if version not in self._tag_versions and len(self._tag_versions) < MAX_TAG_VERSIONS:
            self._tag_versions.add(version)
        version = version if version in self._tag_versions else "other"
        for field_name in {problem.partition(":")[0] for problem in record["problems"]}:
            self._metrics.count("headwater_problems_total", source=record["source"], field=field_name[:64], tag_version=version)

    def _count_masked(self, request: RequestContext) -> Callable[[str], None]:
        return lambda name: self._metrics.count("headwater_masked_total", source=request.source, field=name[:64])

    def _build_dead_letter(
        self,
        raw: Any,
        problem: str,
        request: RequestContext,
        body: bytes = b"",
        reason: RejectionReason = RejectionReason.CONTRACT,
    ) -> SpoolRecord:
        """Return a dead letter with the request's `body`, or with the item as JSON where that is empty."""
        body = (body or dumps(raw))[:MAX_DEAD_BYTES]
        refusal = DeadLetterCause(reason, problem, RecordPosition.at_door(), request.source)
        key, value, _ = self._dead_letters.build(refusal, None, body, request.now_ms / 1000)
        return SpoolRecord(DEAD, key or b"", value or b"")

    def _report_preview(self, accepted: bool, content: Mapping[str, Any]) -> None:
        if self.on_preview is not None:
            self.on_preview(IntakePreview(accepted, content))


def _number_equal(event: ProtocolEvent, derived: Counter[bytes]) -> ProtocolEvent:
    """Tell equal events of one request apart: they are two events, and a retry of the request has both again."""
    earlier = derived[event.derive_from]
    derived[event.derive_from] += 1
    return replace(event, derive_from=b"%s#%d" % (event.derive_from, earlier)) if earlier else event
