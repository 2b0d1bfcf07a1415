"""What can happen in the simulated world: people, devices, events, choices, and the steps they are sent in."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from infra.ops.simulator.marks import marker

Door = Literal["headwater", "segment", "snowplow", "ga4"]
DOORS: tuple[Door, ...] = ("headwater", "segment", "snowplow", "ga4")

EXPERIMENT = "hero-banner"


class VisitorChoice(StrEnum):
    """What a visitor chose, and in which language the page says so."""

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
    """No signal at all: the region's default decides."""
    ONETRUST_NONE = "onetrust_none"
    """OneTrust's groups C0002 to C0004 are refused."""
    ONETRUST_NO_ADS = "onetrust_no_ads"
    """OneTrust's group C0004 is refused, the others are granted."""
    UNMAPPED = "unmapped"
    """Analytics is granted, and a name that no policy maps is refused: so is whatever no other name speaks of."""
    TC_ALL = "tc_all"
    """A TC string of yesterday grants all."""
    TC_NONE = "tc_none"
    """A TC string of today refuses all."""


class Channel(StrEnum):
    """How a visitor refuses: what the report counts refusals by."""

    WEBHOOK = "webhook"
    """`POST /v1/consent`, without an event."""
    OTHER_DEVICE = "other device"
    """On one device, while the events that must lose something come from another one of the same login."""
    TC_TODAY = "TC string of today"
    ONETRUST = "OneTrust names"
    ABROAD = "another country"
    """In a country where silence is a denial, while the visitor is silent later where it is a grant."""
    GPC = "Sec-GPC"
    UNMAPPED = "unknown names"
    BEFORE_LOGIN = "before the login"
    """Under a cookie that nothing is linked to yet."""


class Defect(StrEnum):
    """What is wrong with an event."""

    NONE = ""
    NO_NAME = "no_name"
    """It has no event name: the contract refuses it, its neighbours in the batch are fine."""
    NOT_AN_OBJECT = "not_an_object"
    """An item of the batch is a text."""
    WRONG_KEY = "wrong_key"
    """The write key of its request is unknown."""
    BROKEN_BODY = "broken_body"
    """Its request is no JSON."""
    POISON = "poison"
    """Bytes that no contract knows, written to Kafka behind the collector's back."""


@dataclass(frozen=True, slots=True)
class SimulatedPerson:
    """One human being, or a bot."""

    name: str
    """Truth: never sent."""
    account: str
    """Clear account id; sent once logged in."""
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
    """Several people log in on it."""
    first: bool = True
    """Where its person logs in first."""


@dataclass(frozen=True, slots=True)
class SimulatedEvent:
    """Something a visitor did that the house should (or should not) learn of."""

    n: int
    id: str
    name: str
    device: Device
    person: SimulatedPerson
    login: bool
    """The account id goes with it."""
    age_ms: int
    """How long before it is sent it happened."""
    page: str
    run: str
    value: float = 0.0
    order_id: str = ""
    email: bool = False
    """The e-mail address goes with it."""
    defect: Defect = Defect.NONE
    answers: bool = False
    """It echoes the token of the journey's last decision."""
    dated: bool = False
    """Its page says when its visitor chose: now."""
    granted: int | None = None
    """Purposes that must be granted to it, as bits, where `memory.py` has worked that out; None = its own signals decide."""
    refusal: int = -1
    """Number of the refusal that it comes after, or that it is; -1 = none."""

    def mark(self, kind: Literal["an", "mk", "pz", "dd"]) -> str:
        """This event's marker of a kind."""
        return marker(kind, self.run, self.n)


@dataclass(frozen=True, slots=True)
class SimulatedRequest:
    """One HTTP request (or, for poison, one Kafka record): events of one device that travel together.

    A request that stands twice in a journey is a client's retry: the same bytes again.
    """

    events: tuple[SimulatedEvent, ...]

    @property
    def device(self) -> Device:
        """The device that sends it."""
        return self.events[0].device


@dataclass(frozen=True, slots=True)
class DecisionRequest:
    """A widget asks which variant to show."""

    device: Device
    visitor: SimulatedPerson
    experiment: str = EXPERIMENT
    granted: int | None = None
    """As of an event."""


@dataclass(frozen=True, slots=True)
class Statement:
    """What a visitor, or a form that she has filled in, tells `POST /v1/consent`."""

    device: Device
    identifiers: tuple[tuple[str, str], ...]
    """(field, value) of everybody it is about."""
    purposes: int
    """Purposes that it is about, as bits."""
    grants: bool = False
    withdrawal: bool = False
    """It is a withdrawal as such, not a choice with signals."""


@dataclass(frozen=True, slots=True)
class PlayedRefusal:
    """One refusal that a run plays."""

    number: int
    channel: Channel
    consented_again: bool
    """Its visitor consents again, later in the run."""


Step = SimulatedRequest | DecisionRequest | Statement
Journey = tuple[Step, ...]
