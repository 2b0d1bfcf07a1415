"""Describes decisions in sentences for readers who are no engineers. Pure."""

from collections.abc import Mapping

from streams.consent.decision.decide import Action, ConsentDecision
from streams.consent.formats.evidence import FORMATS, UNMAPPED_FORMAT
from streams.consent.formats.reason import ConsentReason
from streams.consent.policy import Regime

OUTCOMES: Mapping[Action, str] = {
    Action.PASS: "The event is kept as it is.",
    Action.STRIP: "The event is kept, without the fields of every purpose that was not granted.",
    Action.ANONYMISE: "The event is kept without anything that leads to the visitor: no ids, no addresses, and only the hour.",
    Action.DROP: "The event is not kept. It is counted, with the reason, and that is all.",
}

REASONS: Mapping[ConsentReason, str] = {
    ConsentReason.OK_CONSENT: "the visitor agreed",
    ConsentReason.OK_LI: "legitimate interest allows it, and the visitor did not object",
    ConsentReason.OK_EXEMPT: "a sign of life of the house itself; it says nothing about a visitor",
    ConsentReason.NO_SIGNAL: "the event says nothing about it",
    ConsentReason.PENDING: "the visitor has not chosen yet, or the event does not say so (a TC string needs tc_event_status)",
    ConsentReason.MALFORMED: "a consent signal cannot be read, and what cannot be read counts as a no",
    ConsentReason.VERSION: "the consent string is of a version that is not valid",
    ConsentReason.STALE: "the visitor's choice is too old and has to be made again",
    ConsentReason.FUTURE: "the consent string says that it comes from the future",
    ConsentReason.NOT_DISCLOSED: "the consent string does not say which vendors the visitor was told about, or not this one",
    ConsentReason.PURPOSE: "the visitor said no",
    ConsentReason.VENDOR: "the visitor said no to this vendor",
    ConsentReason.RESTRICTED: "the publisher does not allow it to this vendor",
    ConsentReason.LI_FORBIDDEN: "legitimate interest is not allowed for this purpose",
    ConsentReason.GVL_UNKNOWN: "the vendor list that the consent string names is not known here",
    ConsentReason.GPC: "the visitor's browser objects (Global Privacy Control)",
    ConsentReason.WITHDRAWN: "the visitor withdrew her consent, and has not given it again",
    ConsentReason.CONFLICT: "one signal says yes and another says no, and then no counts",
    ConsentReason.UNMAPPED: "nothing in the policy says what this signal or this event means; "
    "a no that is not understood is a no",
}

FORMAT_LABELS: Mapping[str, str] = {row.name: row.label for row in FORMATS} | {UNMAPPED_FORMAT: "a name that nothing maps"}

VALUES: Mapping[str, str] = {
    "grant": "yes",
    "deny": "no",
    "unconfirmed": "not confirmed by the visitor",
    "invalid": "cannot be read",
    "undecoded": "not understood",
    "unknown": "says nothing about it",
}


def describe_action(decision: ConsentDecision) -> str:
    """What happens to the event, in one or two sentences."""
    if decision.drop_reason is None:
        return OUTCOMES[decision.action]
    return f"{OUTCOMES[decision.action]} Why: {REASONS[decision.drop_reason]}."


def describe_default(regime: Regime) -> str:
    """What no signal means in the visitor's region."""
    if regime is Regime.OPT_OUT:
        return "In this region silence means yes, until the visitor objects."
    return "In this region silence means no, and so it does where the region is not known."


def describe_values(formats: Mapping[str, str]) -> str:
    """Values by format, as `Consent Mode: yes, TC string: no`."""
    return (
        ", ".join(f"{FORMAT_LABELS.get(name, name)}: {VALUES.get(value, value)}" for name, value in formats.items())
        or "nothing"
    )
