"""What a signal format offers to `evidence.py`: a name, a label, and functions that evaluate it for a purpose."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import NamedTuple

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpp import GppString
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_set import SignalSet
from streams.consent.formats.tc_string import TcString
from streams.consent.policy import Policy, Purpose, Regime


class FormatResult(NamedTuple):
    """What one format says about one purpose, and why."""

    value: ConsentValue
    reason: ConsentReason


class FormatInput(NamedTuple):
    """What formats are evaluated on: the signals of one event, under one policy."""

    signals: SignalSet
    policy: Policy
    regime: Regime
    region: str
    """Empty where it is not known."""
    now: int
    """Collector time, milliseconds UTC, of which only the day matters."""
    tc_strings: Sequence[TcString | ConsentReason]
    """Those of the event and those within its GPP strings; a reason for each that cannot be decoded."""
    gpp_strings: Sequence[GppString | ConsentReason]
    lists: GvlFolder | None
    """Imported vendor lists."""


PurposeEvaluator = Callable[[Purpose, str], FormatResult | None]
"""(purpose, its name) -> what a format says about it; None = nothing."""


class SignalFormat(NamedTuple):
    """A row of the table of formats."""

    name: str
    """As evidence and `headwater consent explain --json` name it; the second string of one event is `<name>_2`."""
    label: str
    """As `headwater consent explain` prints it."""
    evaluators: Callable[[FormatInput], Iterable[PurposeEvaluator]]
    """One for each string of this format; none where the event has no such signal."""


MALFORMED = FormatResult(ConsentValue.INVALID, ConsentReason.MALFORMED)
_REASONS: Mapping[ConsentValue, ConsentReason] = {
    ConsentValue.GRANT: ConsentReason.OK_CONSENT,
    ConsentValue.INVALID: ConsentReason.MALFORMED,
}


def result_of(value: ConsentValue) -> FormatResult | None:
    """The result of a value whose format gives no finer reason; None for UNKNOWN."""
    return None if value is ConsentValue.UNKNOWN else FormatResult(value, _REASONS.get(value, ConsentReason.PURPOSE))


def objection_result(value: ConsentValue, regime: Regime) -> FormatResult | None:
    """The result of a format that states objections to sale and sharing: no objection is a grant under opt-out only."""
    return result_of(ConsentValue.UNKNOWN if value is ConsentValue.GRANT and regime is Regime.OPT_IN else value)


__all__ = [
    "MALFORMED",
    "FormatInput",
    "FormatResult",
    "PurposeEvaluator",
    "SignalFormat",
    "objection_result",
    "result_of",
]
