"""Consent signals as pages and consent platforms send them. Pure."""

from infra.ops.simulator.protocols.messages import Json, SendStamp
from infra.ops.simulator.world.acts import Device, SimulatedEvent, VisitorChoice
from infra.ops.simulator.world.memory import CHOICE_EVENT
from infra.ops.simulator.world.tc_strings import DAY_MS, tc_string

# Signals of a page for each choice. CMP keys are purposes; gcs/gcd as Google's tags write them (Consent Mode v2).
CMP: dict[VisitorChoice, dict[str, bool]] = {
    VisitorChoice.CMP_ALL: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.CMP_NONE: {"analytics": False, "marketing": False, "personalization": False},
    VisitorChoice.CMP_ANALYTICS: {"analytics": True, "marketing": False, "personalization": False},
    VisitorChoice.CMP_NO_MARKETING: {"analytics": True, "marketing": False, "personalization": True},
    VisitorChoice.CONFLICT: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.GPC: {"analytics": True, "marketing": True, "personalization": True},
    VisitorChoice.UNMAPPED: {"analytics": True},
}
ONETRUST: dict[VisitorChoice, dict[str, bool]] = {
    VisitorChoice.ONETRUST_NONE: {"C0001": True, "C0002": False, "C0003": False, "C0004": False},
    VisitorChoice.ONETRUST_NO_ADS: {"C0001": True, "C0002": True, "C0003": True, "C0004": False},
}
UNMAPPED = {"partner_sharing_v2": "denied"}
"""A site-specific name that no policy maps."""
MODE: dict[VisitorChoice, tuple[str, str]] = {
    VisitorChoice.MODE_ALL: ("G111", "13r3r3r3r5"),
    VisitorChoice.MODE_NONE: ("G100", "13q3q3q3q5"),
    VisitorChoice.MODE_ANALYTICS: ("G101", "13q3r3q3q5"),
    VisitorChoice.CONFLICT: ("G101", "13q3r3q3q5"),
}


def consent_signals(device: Device, now_ms: int) -> Json:
    """Return a page's consent signals: the contract's names, and groups by the names of consent platforms."""
    consent: Json = {f"cmp.{purpose}": "granted" if yes else "denied" for purpose, yes in CMP.get(device.choice, {}).items()}
    if device.choice in MODE:
        consent["gcs"], consent["gcd"] = MODE[device.choice]
    if device.choice is VisitorChoice.GPC:
        consent["gpc"] = "1"
    if device.choice is VisitorChoice.UNMAPPED:
        consent |= UNMAPPED
    if device.choice in (VisitorChoice.TC_ALL, VisitorChoice.TC_NONE):
        grants = device.choice is VisitorChoice.TC_ALL
        day = now_ms - DAY_MS if grants else now_ms
        consent |= {
            "tc_string": tc_string(day // DAY_MS * DAY_MS, grants=grants),
            "gdpr_applies": "1",
            "tc_event_status": "tcloaded",
        }
    return consent | ONETRUST.get(device.choice, {})


def flat_signals(device: Device, now_ms: int) -> dict[str, str]:
    """Return the signals with text values."""
    words = {True: "granted", False: "denied"}
    return {name: words.get(value, str(value)) for name, value in consent_signals(device, now_ms).items()}


def event_signals(event: SimulatedEvent, stamp: SendStamp) -> Json:
    """Return the signals of an event."""
    consent = consent_signals(event.device, stamp.now_ms)
    if event.dated:
        consent["chosen_ts"] = stamp.now_ms
    if event.name == CHOICE_EVENT and "tc_string" in consent:
        consent["tc_event_status"] = "useractioncomplete"
    return consent


def nest_categories(consent: Json) -> Json:
    """Return signals with a consent platform's groups nested as Segment's wrappers send them."""
    groups = {name: value for name, value in consent.items() if isinstance(value, bool)}
    rest = {name: value for name, value in consent.items() if name not in groups}
    return rest | ({"categoryPreferences": groups} if groups else {})
