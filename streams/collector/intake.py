"""From a parsed request to records: each item accepted, or a dead letter with its bytes. No HTTP here."""

import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from infra.payload_keyring import PayloadKeyring
from infra.telemetry.metrics import Metrics
from schemas.boundary import Boundary, ContractViolation, validator
from schemas.codec import encode
from schemas.registry import Registry
from streams.collector.delivery.spool import SpoolRecord
from streams.collector.event import InvalidItem, Item, ProtocolEvent
from streams.collector.fields.repeated import dumps
from streams.collector.http.refusals import RejectionReason
from streams.collector.masking import mask_choice
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import choices
from streams.collector.signals.choice_rules import ChoiceRules
from streams.identity.nodes import NodeKeys
from streams.runtime.dead_letters.dead_letter import DeadLetterCause, DeadLetters, RecordPosition

RAW, DEAD, SIGNALS = "events.raw", "events.dead", "consent.signals"
LOOK_S = 1.0
RECENT = 1_000

UNDATED_WARNING = (
    "chosen_ts cannot be read: a refusal counts from now, a grant as undated; send milliseconds since 1970 or ISO 8601"
)

Reader = Callable[[Any], Item]


@dataclass(slots=True)
class IntakeResult:
    """What became of a request's items."""

    records: list[SpoolRecord] = field(default_factory=list)
    accepted: int = 0
    refused: list[tuple[int, str]] = field(default_factory=list)
    """(place in the request, what was wrong)."""
    warnings: list[tuple[int, str]] = field(default_factory=list)
    """(place in the request, what was taken otherwise than it was sent)."""
    sites: set[str] = field(default_factory=set)
    """Sites on which the accepted choices count."""


class IntakePreview(NamedTuple):
    """One item, for people who set tags up (`--micro`)."""

    good: bool
    what: Mapping[str, Any]


class Intake:
    """Turns items into records by the newest contract, which is looked for once a second."""

    def __init__(
        self, registry: Registry, keyring: PayloadKeyring, keys: NodeKeys, metrics: Metrics, rules: ChoiceRules | None = None
    ) -> None:
        self._registry = registry
        self._keys = keys
        self._letters = DeadLetters(registry, keyring, "collector", metrics)
        self._metrics = metrics
        self._rules = rules
        self._looked = 0.0
        self._adopt()
        self.on_seen: Callable[[IntakePreview], None] | None = None

    def _adopt(self) -> None:
        contract = self._registry.latest(RAW)
        self._normaliser = Normaliser(contract, self._keys)
        self._boundary: Boundary = validator(contract)

    def _look(self, now: float) -> None:
        if now - self._looked >= LOOK_S:
            self._looked = now
            if self._registry.reload():
                self._adopt()

    def take(self, items: Iterable[Any], read: Reader, request: RequestContext) -> IntakeResult:
        """All items of one request, in order. Never raises for what a sender sent."""
        self._look(time.monotonic())
        taken = IntakeResult()
        for place, raw in enumerate(items):
            item = read(raw)
            problem = item.detail if isinstance(item, InvalidItem) else self._accept(item, request, taken)
            if problem:
                taken.refused.append((place, problem))
                taken.records.append(self._dead(raw, problem, request))
                self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.CONTRACT)
                self._show(False, {"problem": problem})
        return taken

    def take_choices(self, items: Iterable[Any], request: RequestContext, body: bytes = b"") -> IntakeResult:
        """All choices of one request, for `consent.signals`. Never raises for what a sender sent.

        `body`: the request's bytes where they are one choice, which is kept byte for byte if it is refused.
        """
        taken = IntakeResult()
        contract = self._registry.latest(SIGNALS)
        for place, raw in enumerate(items):
            choice = choices.read(raw)
            problem = choice.detail if isinstance(choice, InvalidItem) else self._problem(choice, request)
            found: list[tuple[str, dict[str, Any]]] = []
            if not problem and isinstance(choice, choices.SentChoice):
                choice = mask_choice(choice, request.ip, self._count_masked(request))
                found += choices.records(choice, self._keys, request.site, request.now_ms)
                problem = "" if found else "it names nobody: give user_id, client_id or another identifier"
            try:
                written = [SpoolRecord(SIGNALS, key.encode(), encode(contract, record)) for key, record in found]
            except ValueError as error:  # half a surrogate pair in a JSON escape has no UTF-8
                written, problem = [], f"cannot be written: {type(error).__name__}"
            if problem:
                taken.refused.append((place, problem))
                taken.records.append(self._dead(raw, problem, request, body))
                self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.CONTRACT)
                continue
            taken.records += written
            taken.accepted += 1
            if isinstance(choice, choices.SentChoice) and choice.chosen == choices.UNDATED:
                taken.warnings.append((place, UNDATED_WARNING))
            if self._rules is not None:
                taken.sites.update(site for _, record in found for site in self._rules.holds_for(record["site"]))
            self._metrics.count("headwater_collected_total", protocol="consent", source=request.source)
        return taken

    def refuse(self, body: bytes, problem: str, request: RequestContext) -> IntakeResult:
        """A body with no items in it, as one dead letter."""
        self._metrics.count("headwater_refused_total", door="collector", reason=RejectionReason.CONTRACT)
        return IntakeResult([self._dead(None, problem, request, body)], refused=[(0, problem)])

    def _problem(self, choice: choices.SentChoice, request: RequestContext) -> str:
        """What is not understood about a choice, or nothing. Without a policy nothing is understood."""
        return (
            "this collector has no consent policy"
            if self._rules is None
            else self._rules.problem(choice, request.source, request.now_ms)
        )

    def _accept(self, event: ProtocolEvent, request: RequestContext, taken: IntakeResult) -> str:
        """What is wrong with it, or nothing."""
        key, record = self._normaliser.record(event, request, self._count_masked(request))
        try:
            value = encode(self._normaliser.contract, self._boundary.check(record))
        except ContractViolation as error:
            return "; ".join(error.problems)
        except ValueError as error:  # half a surrogate pair in a JSON escape has no UTF-8
            return f"cannot be written: {type(error).__name__}"
        taken.records.append(SpoolRecord(RAW, key.encode(), value))
        if self._rules is not None:
            self._rules.sites.add(record["site"])
        taken.accepted += 1
        self._metrics.count("headwater_collected_total", protocol=event.protocol, source=request.source)
        self._show(True, record)
        return ""

    def _count_masked(self, request: RequestContext) -> Callable[[str], None]:
        return lambda name: self._metrics.count("headwater_masked_total", source=request.source, field=name[:64])

    def _dead(self, raw: Any, problem: str, request: RequestContext, body: bytes = b"") -> SpoolRecord:
        """A dead letter with the item's bytes: the request's own where they are given, else written as they were read."""
        body = body or dumps(raw)
        refusal = DeadLetterCause(RejectionReason.CONTRACT, problem, RecordPosition.at_door(), request.source)
        key, value, _ = self._letters.build(refusal, None, body, request.now_ms / 1000)
        return SpoolRecord(DEAD, key or b"", value or b"")

    def _show(self, good: bool, what: Mapping[str, Any]) -> None:
        if self.on_seen is not None:
            self.on_seen(IntakePreview(good, what))
