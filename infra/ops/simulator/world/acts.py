"""Types of the simulated world: people, devices, events, choices, and the steps of journeys."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from infra.ops.simulator.marks import marker

Door = Literal["headwater", "segment", "snowplow", "ga4"]
DOORS: tuple[Door, ...] = ("headwater", "segment", "snowplow", "ga4")

EXPERIMENT = "hero-banner"


class VisitorChoice(StrEnum):
    """A visitor's choice and the signals in which the page expresses it."""

    CMP_ALL = "cmp_all"
    CMP_NONE = "cmp_none"
    CMP_ANALYTICS = "cmp_analytics"
    CMP_NO_MARKETING = "cmp_no_marketing"
    MODE_ALL = "mode_all"
    MODE_NONE = "mode_none"
    MODE_ANALYTICS = "mode_analytics"
    CONFLICT = "conflict"
    """The CMP grants all, Consent Mode denies advertising."""
    GPC = "gpc"
    """The CMP grants all, the browser objects (Sec-GPC)."""
    SILENT = "silent"
    """No signal: the region's default decides."""
    ONETRUST_NONE = "onetrust_none"
    """OneTrust refuses groups C0002 to C0004."""
    ONETRUST_NO_ADS = "onetrust_no_ads"
    """OneTrust refuses group C0004 and grants the others."""
    UNMAPPED = "unmapped"
    """Analytics is granted, and a name that no policy maps is refused, and with it all purposes that no other name covers."""
    TC_ALL = "tc_all"
    """A TC string of yesterday grants all."""
    TC_NONE = "tc_none"
    """A TC string of today refuses all."""


class Channel(StrEnum):
    """The way in which a visitor refuses; the report counts refusals by channel."""

    WEBHOOK = "webhook"
    """`POST /v1/consent`, without an event."""
    OTHER_DEVICE = "other device"
    """On one device; the affected events come from another device of the same login."""
    TC_TODAY = "TC string of today"
    ONETRUST = "OneTrust names"
    ABROAD = "another country"
    """In an opt-in country; later events without signals come from an opt-out country."""
    GPC = "Sec-GPC"
    UNMAPPED = "unknown names"
    BEFORE_LOGIN = "before the login"
    """With a cookie that is not linked yet."""


class Defect(StrEnum):
    """A defect of an event or its request."""

    NONE = ""
    NO_NAME = "no_name"
    """The event has no name: the contract refuses it, and accepts the others in the batch."""
    NOT_AN_OBJECT = "not_an_object"
    """The batch item is a text."""
    WRONG_KEY = "wrong_key"
    """The request's write key is unknown."""
    BROKEN_BODY = "broken_body"
    """The request is no JSON: it is refused, and its body is a dead letter."""
    POISON = "poison"
    """Bytes of no contract, written to Kafka past the collector."""


@dataclass(frozen=True, slots=True)
class SimulatedPerson:
    """A person, or a bot."""

    name: str
    """Name in the ledger; never sent."""
    account: str
    """Clear account id, sent after login."""
    email: str
    number: int


@dataclass(frozen=True, slots=True)
class Device:
    """A browser: one cookie, one protocol, one country, one consent choice."""

    cookie: str
    door: Door
    region: str
    choice: VisitorChoice
    agent: str
    bot: bool = False
    shared: bool = False
    """Several people log in on this device."""
    first: bool = True
    """The person's first login is on this device."""


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """An event of a visitor."""

    n: int
    id: str
    name: str
    device: Device
    person: SimulatedPerson
    login: bool
    """The event carries the account id."""
    age_ms: int
    """Age when it is sent, milliseconds."""
    page: str
    run: str
    value: float = 0.0
    order_id: str = ""
    email: bool = False
    """The event carries the e-mail address."""
    defect: Defect = Defect.NONE
    answers: bool = False
    """The event carries the token of the journey's last decision."""
    dated: bool = False
    """The page says that the choice was made now."""
    granted: int | None = None
    """Purposes that must be granted, as bits, by `memory.py`; None = the event's own signals decide."""
    refusal: int = -1
    """Number of the refusal that the event is or follows; -1 = none."""

    def mark(self, kind: Literal["an", "mk", "pz", "dd"]) -> str:
        """Return this event's marker of a kind."""
        return marker(kind, self.run, self.n)


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """One HTTP request (or, for poison, one Kafka record) with events of one device.

    A request that occurs twice in a journey is a client's retry with the same bytes.
    """

    events: tuple[SimulatedEvent, ...]

    @property
    def device(self) -> Device:
        """The sending device."""
        return self.events[0].device


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """A widget's request for a decision."""

    device: Device
    visitor: SimulatedPerson
    experiment: str = EXPERIMENT
    granted: int | None = None
    """As in `SimulatedEvent`."""


@dataclass(frozen=True, slots=True)
class Statement:
    """A choice or withdrawal sent to `POST /v1/consent`."""

    device: Device
    identifiers: tuple[tuple[str, str], ...]
    """(field, value) of each identifier."""
    purposes: int
    """Purposes, as bits."""
    grants: bool = False
    withdrawal: bool = False
    """It is a withdrawal, not a choice with signals."""


@dataclass(frozen=True, slots=True)
class PlayedRefusal:
    """One refusal of a run."""

    number: int
    channel: Channel
    consented_again: bool
    """The visitor consents again, later in the run."""


Step = SimulatedRequest | DecisionRequest | Statement
Journey = tuple[Step, ...]
