"""Evaluates the signals of one event, purpose by purpose and format by format, and dates the choice.

To add a format, write a module with a function of type `SignalFormat.evaluators` and add a row to `FORMATS`. A signal that
comes under names of its own also needs them in `signal_names.SPELLINGS`.
"""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from infra.parsing.times import parse_time
from streams.consent.formats.consent_mode import evaluate_consent_mode
from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpc import evaluate_gpc
from streams.consent.formats.gpp.evaluate import evaluate_gpp, evaluate_us_privacy, read_gpp_string, unreadable_sections
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signal_format import (
    MALFORMED,
    FormatInput,
    FormatResult,
    PurposeEvaluator,
    SignalFormat,
    result_of,
)
from streams.consent.formats.signal_names import Signals
from streams.consent.formats.signal_set import SignalSet
from streams.consent.formats.tc_string import TcString
from streams.consent.formats.tcf import claims_gdpr, evaluate_tc_strings, gdpr_applies, has_acted, read_tc_strings
from streams.consent.ledger.ledger import Claim
from streams.consent.policy import Policy, Regime

ONLY_GRANTS = frozenset({ConsentValue.GRANT})
VISITOR_DENIALS = frozenset({ConsentReason.PURPOSE, ConsentReason.VENDOR, ConsentReason.GPC, ConsentReason.UNMAPPED})
"""Denials that the visitor made; what is unreadable, too old or not yet chosen is none."""
UNMAPPED_REFUSAL = FormatResult(ConsentValue.DENY, ConsentReason.UNMAPPED)
MAX_PROPERTY = 64
"""Characters of a fingerprint's values."""


def evaluate_unreadable(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """A consent object that cannot be read, about every purpose."""
    return [lambda _purpose, _name: MALFORMED] if event.signals.unreadable else []


def evaluate_platform(event: FormatInput) -> Iterable[PurposeEvaluator]:
    """The choices of a consent platform under its own names."""
    return [lambda _purpose, name: result_of(event.signals.choice(name))] if event.signals.choices else []


FORMATS: Sequence[SignalFormat] = (
    SignalFormat("consent", "the consent object itself", evaluate_unreadable),
    SignalFormat("cmp", "consent platform", evaluate_platform),
    SignalFormat("consent_mode", "Consent Mode", evaluate_consent_mode),
    SignalFormat("gpc", "Global Privacy Control", evaluate_gpc),
    SignalFormat("tc_string", "TC string", evaluate_tc_strings),
    SignalFormat("gpp", "GPP string", evaluate_gpp),
    SignalFormat("us_privacy", "US Privacy", evaluate_us_privacy),
)
"""Every format that is read, in the order in which explanations name them."""
UNMAPPED_FORMAT = "unmapped"
"""In place of a format: a refusal under a name that the policy does not map."""


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """What one event's signals say under one policy, in one region, on one day."""

    regime: Regime
    results: Mapping[str, Mapping[str, FormatResult]]
    """Purpose -> format -> what it says."""
    claim: Claim
    """The visitor's choice, as far as it is stored."""
    platform: str = ""
    """Consent platform: the TC string's CMP id, or its name."""
    gvl: int = 0
    """Vendor list version of the TC string."""
    fingerprint: tuple[tuple[str, str], ...] = ()
    """Name and version of the platform, vendor list, policy version, its services: what changes when its set-up does."""
    unmapped: tuple[str, ...] = ()
    """Names of signals that the policy does not map."""
    unreadable_sections: tuple[int, ...] = ()
    """Ids of GPP sections that cannot be read; 0 = the header."""


class SignalReader:
    """Evaluates signals under one policy."""

    def __init__(self, policy: Policy, lists: GvlFolder | None = None) -> None:
        self._policy = policy
        self._lists = lists

    def read(self, region: str, signals: Signals, now: int) -> SignalEvidence:
        """The evidence of an event. `now`: collector time, milliseconds UTC, of which only the day matters."""
        signal_set = self._signal_set(signals)
        regime = Regime.OPT_IN if claims_gdpr(signal_set) else self._policy.regime(region)
        return self._evaluate(regime, region, signal_set, now)

    def read_under(self, regime: Regime, signals: Signals, now: int) -> SignalEvidence:
        """The same under a given regime, of a visitor whose region is not known."""
        return self._evaluate(regime, "", self._signal_set(signals), now)

    def _signal_set(self, signals: Signals) -> SignalSet:
        return SignalSet(signals, self._policy.vocabulary, self._policy.signals.empty_denies)

    def _evaluate(self, regime: Regime, region: str, signals: SignalSet, now: int) -> SignalEvidence:
        gpp_strings = [read_gpp_string(text) for text in signals.values.get("gpp", ())]
        void = gdpr_applies(signals) is False and not self._policy.under_gdpr(region)
        tc_strings = [] if void else read_tc_strings(signals, gpp_strings)
        event = FormatInput(signals, self._policy, regime, region, now, tc_strings, gpp_strings, self._lists)
        results = self._results(event)
        valid = [tc for tc in tc_strings if isinstance(tc, TcString)]
        return SignalEvidence(
            regime,
            results,
            _claim(results, signals, valid),
            signals.first("platform") or (str(valid[0].cmp_id) if valid else ""),
            valid[0].gvl_version if valid else 0,
            platform_fingerprint(signals, valid[0] if valid else None),
            tuple(signals.unmapped),
            unreadable_sections(gpp_strings) if gpp_strings else (),
        )

    def _results(self, event: FormatInput) -> dict[str, dict[str, FormatResult]]:
        """Purpose -> format -> what it says; formats that say nothing are left out."""
        evaluators = [
            (signal_format.name if number == 1 else f"{signal_format.name}_{number}", evaluate)
            for signal_format in FORMATS
            for number, evaluate in enumerate(signal_format.evaluators(event), 1)
        ]
        results = {
            name: {
                format_name: result for format_name, evaluate in evaluators if (result := evaluate(purpose, name)) is not None
            }
            for name, purpose in self._policy.purposes.items()
        }
        if event.signals.unmapped_refusal and self._policy.signals.unmapped_refusals_deny:
            for by_format in results.values():
                if not by_format:
                    by_format[UNMAPPED_FORMAT] = UNMAPPED_REFUSAL
        return results


def _claim(results: Mapping[str, Mapping[str, FormatResult]], signals: SignalSet, strings: Sequence[TcString]) -> Claim:
    """Purposes that every result grants, and those that the visitor denies. What is unreadable is neither."""
    granted, denied = set[str](), set[str]()
    for purpose, by_format in results.items():
        if {result.value for result in by_format.values()} == ONLY_GRANTS:
            granted.add(purpose)
        elif any(result.value is ConsentValue.DENY and result.reason in VISITOR_DENIALS for result in by_format.values()):
            denied.add(purpose)
    days = [string.last_updated_ms for string in strings]
    return Claim(
        frozenset(granted),
        frozenset(denied),
        chosen_at(signals.values.get("chosen_ts", ())),
        (min(days), max(days)) if days else None,
        has_acted(signals),
    )


def chosen_at(texts: Iterable[str]) -> int | None:
    """When the choice was made, milliseconds UTC; 0 without a text, None where texts differ or cannot be read."""
    times = {parse_time(text) for text in texts}
    if not times:
        return 0
    return times.pop() if len(times) == 1 else None


def platform_fingerprint(signals: SignalSet, tc: TcString | None = None) -> tuple[tuple[str, str], ...]:
    """How the consent platform is set up, as far as an event shows it: its metadata, and a hash of the services it names."""
    names = ("platform", "platform_version", "platform_event")
    properties = {name: signals.first(name)[:MAX_PROPERTY] for name in names if signals.first(name)}
    if tc is not None:
        properties |= {
            "cmp_id": str(tc.cmp_id), "cmp_version": str(tc.cmp_version), "gvl": str(tc.gvl_version),
            "tcf_policy": str(tc.policy_version),
        }  # fmt: skip
    if signals.services:
        joined = "|".join(sorted(signals.services))
        properties["services"] = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return tuple(sorted(properties.items()))
