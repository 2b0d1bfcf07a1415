"""Everything that one event's signals say, purpose by purpose and format by format; and when it was chosen.

Strings are decoded once and kept, failures too: what a visitor chose stays the same string for months.
"""

import hashlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

from infra.parsing.times import parse_time
from streams.consent.formats.consent_mode import consent_mode, consent_mode_word
from streams.consent.formats.gpc import gpc_word
from streams.consent.formats.gpp import GppString, InvalidGpp, canadian_word, us_word, usp_word
from streams.consent.formats.gpp import decode as decode_gpp
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.formats.signals import ConsentValue, Signals, SignalSet, strictest
from streams.consent.formats.tc_string import InvalidTcString, TcString, decode
from streams.consent.formats.tcf import Demand, judge
from streams.consent.ledger.ledger import Claim
from streams.consent.policy import Policy, Purpose, Regime

KEPT_STRINGS = 8_192
LONGEST_KEPT = 2_048
"""Characters: longer strings are decoded each time, so that memory stays bounded whatever is sent."""
ACTED = "useractioncomplete"
FINAL_STATUS = ("tcloaded", ACTED)
"""Event statuses of a TC string after which the visitor's choice stands; before them the banner is open."""
GRANT = frozenset({ConsentValue.GRANT})
VISITORS = frozenset({ConsentReason.PURPOSE, ConsentReason.VENDOR, ConsentReason.GPC, ConsentReason.UNMAPPED})
"""Denials that the visitor made; what is unreadable, too old or not yet chosen is none."""

WHY: Mapping[ConsentValue, ConsentReason] = {
    ConsentValue.GRANT: ConsentReason.OK_CONSENT,
    ConsentValue.INVALID: ConsentReason.MALFORMED,
}
"""The reason of a word where its format gives no finer one."""
YES, NO = frozenset({"1", "true", "yes", "granted"}), frozenset({"0", "false", "no", "denied"})


class FormatResult(NamedTuple):
    """What one format says about one purpose, and why."""

    word: ConsentValue
    reason: ConsentReason


OK = (ConsentReason.OK_CONSENT, ConsentReason.OK_LI)
HEARD = {reason: FormatResult(ConsentValue.GRANT if reason in OK else ConsentValue.DENY, reason) for reason in ConsentReason}
"""What a TC string says, by its reason."""
PENDING, UNMAPPED = (
    FormatResult(ConsentValue.DENY, ConsentReason.PENDING),
    FormatResult(ConsentValue.UNDECODED, ConsentReason.UNMAPPED),
)
MALFORMED, REFUSED_UNMAPPED = (
    FormatResult(ConsentValue.INVALID, ConsentReason.MALFORMED),
    FormatResult(ConsentValue.DENY, ConsentReason.UNMAPPED),
)

GPC_HEARD: Mapping[ConsentValue, FormatResult] = {
    ConsentValue.DENY: FormatResult(ConsentValue.DENY, ConsentReason.GPC),
    ConsentValue.INVALID: MALFORMED,
}

Listener = Callable[[Purpose, str], FormatResult | None]
"""(purpose, its name) -> what a format says about it."""


@dataclass(frozen=True, slots=True)
class SignalEvidence:
    """What one event's signals say under one policy, in one region, on one day."""

    regime: Regime
    results: Mapping[str, Mapping[str, FormatResult]]
    """Purpose -> format -> what it says."""
    claim: Claim
    """What the visitor chose, as far as it is remembered."""
    platform: str = ""
    """Consent platform: the TC string's CMP id, or its name."""
    gvl: int = 0
    """Vendor list version of the TC string."""
    fingerprint: tuple[tuple[str, str], ...] = ()
    """Name and version of the platform, vendor list, policy version, its services: what changes when its set-up does."""
    unmapped: tuple[str, ...] = ()
    """Names of signals that nothing maps."""
    unreadable_sections: tuple[int, ...] = ()
    """Ids of GPP sections that cannot be read; 0 = the header."""


class SignalReader:
    """Reads signals by one policy."""

    def __init__(self, policy: Policy, lists: GvlFolder | None = None) -> None:
        self._policy = policy
        self._lists = lists
        rules = policy.tcf
        self._demands = {
            purpose.tcf: Demand(purpose.tcf, rules.vendor, rules.max_age_days) for purpose in policy.purposes.values()
        }
        self._kept = lru_cache(KEPT_STRINGS)(_decoded)
        self._kept_gpp = lru_cache(KEPT_STRINGS)(_decoded_gpp)

    def read(self, region: str, signals: Signals, now: int) -> SignalEvidence:
        """The evidence of an event. `now`: collector time, of which only the day matters."""
        signal_set = self._signal_set(signals)
        regime = Regime.OPT_IN if claims_gdpr(signal_set) else self._policy.regime(region)
        return self._evidence(regime, region, signal_set, now)

    def read_under(self, regime: Regime, signals: Signals, now: int) -> SignalEvidence:
        """The same under a given regime, of a visitor whose region is not known."""
        return self._evidence(regime, "", self._signal_set(signals), now)

    def _signal_set(self, signals: Signals) -> SignalSet:
        return SignalSet(signals, self._policy.vocabulary, self._policy.signals.empty_denies)

    def _evidence(self, regime: Regime, region: str, signal_set: SignalSet, now: int) -> SignalEvidence:
        gpps = [self._gpp(text) for text in signal_set.values.get("gpp", ())]
        strings = [self._tc_string(text) for text in _tc_texts(signal_set, gpps)]
        void = gdpr_applies(signal_set) is False and not self._policy.under_gdpr(region)
        formats = self._formats(regime, region, signal_set, ([] if void else strings, gpps), now)
        results = {
            name: {which: result for which, listen in formats if (result := listen(purpose, name)) is not None}
            for name, purpose in self._policy.purposes.items()
        }
        if signal_set.unmapped_refusal and self._policy.signals.unmapped_refusals_deny:
            for by_format in results.values():
                if not by_format:
                    by_format["unmapped"] = REFUSED_UNMAPPED
        valid = [] if void else [result for result in strings if isinstance(result, TcString)]
        platform = signal_set.first("platform") or (str(valid[0].cmp_id) if valid else "")
        return SignalEvidence(
            regime,
            results,
            _claim(results, signal_set, valid),
            platform,
            valid[0].gvl_version if valid else 0,
            marks(signal_set, valid[0] if valid else None),
            tuple(signal_set.unmapped),
            _unreadable_sections(gpps) if gpps else (),
        )

    def _formats(
        self,
        regime: Regime,
        region: str,
        signal_set: SignalSet,
        strings: tuple[Sequence[TcString | ConsentReason], Sequence[GppString | ConsentReason]],
        now: int,
    ) -> list[tuple[str, Listener]]:
        """The formats that an event has, and how to ask each about a purpose."""
        tcs, gpps = strings
        formats: list[tuple[str, Listener]] = []
        if signal_set.unreadable:
            formats.append(("consent", lambda _purpose, _name: MALFORMED))
        if signal_set.choices:
            formats.append(("cmp", lambda _purpose, name: _heard(signal_set.choice(name))))
        mode = consent_mode(signal_set.values, self._policy.letters)
        if mode:
            # It narrows what the platform's own words grant, and adds nothing to them.
            narrows = signal_set.from_platform or bool(tcs)
            formats.append(("consent_mode", lambda purpose, _name: _heard(_mode_word(mode, purpose, regime, narrows))))
        if (texts := signal_set.values.get("gpc", ())) and self._policy.gpc_counts(region):
            gpc = GPC_HEARD.get(strictest(map(gpc_word, texts)))
            formats.append(("gpc", lambda purpose, _name: gpc if purpose.denied_by_gpc else None))
        for number, tc in enumerate(tcs):
            formats.append((f"tc_string_{number + 1}" if number else "tc_string", self._tc_words(tc, signal_set, now)))
        if gpps:
            formats.append(("gpp", lambda purpose, _name: _gpp_word(gpps, purpose, regime)))
        if texts := signal_set.values.get("us_privacy", ()):
            word = strictest(usp_word(text) if text.strip() else ConsentValue.INVALID for text in texts)
            formats.append(("us_privacy", lambda purpose, _name: _objection(word, regime) if purpose.denied_by_gpc else None))
        return formats

    def _gpp(self, text: str) -> GppString | ConsentReason:
        """A GPP string, or why it cannot be read."""
        return self._kept_gpp(text) if len(text) <= LONGEST_KEPT else _decoded_gpp(text)

    def _tc_string(self, text: str) -> TcString | ConsentReason:
        """A TC string, or why it cannot be read."""
        text = text.strip()
        return self._kept(text) if len(text) <= LONGEST_KEPT else _decoded(text)

    def _tc_words(self, tc: TcString | ConsentReason, signal_set: SignalSet, now: int) -> Listener:
        applies = gdpr_applies(signal_set)
        if isinstance(tc, ConsentReason):
            unreadable = FormatResult(ConsentValue.INVALID, tc)
            return lambda _purpose, _name: unreadable
        final = applies is not None and is_final(signal_set)
        rules = self._policy.tcf
        lists = self._lists.version(tc.gvl_version) if final and rules.vendor and self._lists is not None else None

        def word(purpose: Purpose, _name: str) -> FormatResult | None:
            if not final:
                return PENDING
            if not purpose.tcf:
                return UNMAPPED
            result = HEARD[judge(tc, self._demands[purpose.tcf], lists, now)]
            # Where the GDPR is said not to apply, a string grants nothing; what it refuses is refused.
            return None if applies is False and result.word is ConsentValue.GRANT else result

        return word


def _unreadable_sections(gpps: Iterable[GppString | ConsentReason]) -> tuple[int, ...]:
    """Ids of sections that cannot be read; 0 for a header, or a string of which nothing can be."""
    return tuple(sorted({section for gpp in gpps for section in (gpp.unreadable if isinstance(gpp, GppString) else (0,))}))


def _tc_texts(signal_set: SignalSet, gpps: Iterable[GppString | ConsentReason]) -> list[str]:
    """The event's own TC strings, and those within its GPP strings; the strictest of all counts."""
    within = (gpp.tc_string for gpp in gpps if isinstance(gpp, GppString) and gpp.tc_string)
    return list(dict.fromkeys((*signal_set.values.get("tc_string", ()), *within)))


def _heard(word: ConsentValue) -> FormatResult | None:
    """What is heard where a word says everything."""
    return None if word is ConsentValue.UNKNOWN else FormatResult(word, WHY.get(word, ConsentReason.PURPOSE))


def _mode_word(mode: Mapping[str, ConsentValue], purpose: Purpose, regime: Regime, narrows: bool) -> ConsentValue:
    word = consent_mode_word(mode, purpose.consent_mode)
    if word is ConsentValue.UNCONFIRMED and regime is Regime.OPT_OUT:
        word = ConsentValue.GRANT
    return ConsentValue.UNKNOWN if word is ConsentValue.GRANT and narrows else word


def _claim(results: Mapping[str, Mapping[str, FormatResult]], signal_set: SignalSet, strings: Sequence[TcString]) -> Claim:
    """Purposes that are granted by all that is heard, and those that the visitor denies. What is unreadable is neither."""
    granted, denied = set[str](), set[str]()
    for purpose, formats in results.items():
        words = {result.word for result in formats.values()}
        if words == GRANT:
            granted.add(purpose)
        elif ConsentValue.DENY in words and any(
            result.word is ConsentValue.DENY and result.reason in VISITORS for result in formats.values()
        ):
            denied.add(purpose)
    days = [string.last_updated_ms for string in strings]
    return Claim(
        frozenset(granted),
        frozenset(denied),
        chosen_at(signal_set.values.get("chosen_ts", ())),
        (min(days), max(days)) if days else None,
        all(text.strip().lower() == ACTED for text in signal_set.values.get("tc_event_status", ("",))),
    )


def _decoded(text: str) -> TcString | ConsentReason:
    try:
        return decode(text)
    except InvalidTcString as error:
        return error.reason


def chosen_at(texts: Iterable[str]) -> int | None:
    """When the choice was made, milliseconds UTC: 0 where the sender says nothing, None where it cannot be read or is said
    twice differently."""
    times = {parse_time(text) for text in texts}
    if not times:
        return 0
    return times.pop() if len(times) == 1 else None


def gdpr_applies(signal_set: SignalSet) -> bool | None:
    """What the page says of GDPR; None where it says nothing, or nothing that can be read, or contradicts itself."""
    values = {value.strip().lower() for value in signal_set.values.get("gdpr_applies", ())}
    if not values:
        return None
    return True if values <= YES else False if values <= NO else None


def claims_gdpr(signal_set: SignalSet) -> bool:
    """Whether the page says that GDPR applies (or says it unreadably), wherever the visitor seems to be."""
    return any(value.strip().lower() not in NO for value in signal_set.values.get("gdpr_applies", ()))


def is_final(signal_set: SignalSet) -> bool:
    """Whether the banner is closed: every status that is said is a final one, and one is."""
    statuses = signal_set.values.get("tc_event_status", ())
    return bool(statuses) and all(status.strip().lower() in FINAL_STATUS for status in statuses)


def _decoded_gpp(text: str) -> GppString | ConsentReason:
    try:
        return decode_gpp(text)
    except InvalidGpp:
        return ConsentReason.MALFORMED


def _gpp_word(gpps: Sequence[GppString | ConsentReason], purpose: Purpose, regime: Regime) -> FormatResult | None:
    """What GPP strings say of a purpose, the strictest of all sections. One that cannot be read may hold an objection.

    US sections speak about sale, sharing and advertising, what GPC objects to as well; the Canadian one about purposes.
    """
    readable = [gpp for gpp in gpps if isinstance(gpp, GppString)]
    consents = [canadian_word(gpp.canada, purpose.tcf) for gpp in readable if gpp.canada is not None]
    results = {_heard(word) for word in consents}
    if purpose.denied_by_gpc:
        objections = [us_word(section) for gpp in readable for section in gpp.us] + [usp_word(gpp.usp) for gpp in readable]
        results.add(_objection(strictest(objections), regime))
        if len(readable) < len(gpps) or any(gpp.unreadable for gpp in readable):
            results.add(MALFORMED)
    # A refusal that was read is remembered, whatever else cannot be read.
    words = {result.word: result for result in results if result is not None}
    return words.get(ConsentValue.DENY) or words.get(ConsentValue.INVALID) or words.get(ConsentValue.GRANT)


def _objection(word: ConsentValue, regime: Regime) -> FormatResult | None:
    """Not to object to sale and sharing is a consent only where none is needed."""
    return _heard(ConsentValue.UNKNOWN if word is ConsentValue.GRANT and regime is Regime.OPT_IN else word)


def marks(signal_set: SignalSet, tc: TcString | None = None) -> tuple[tuple[str, str], ...]:
    """How the consent platform is set up, as far as an event shows it: its metadata, and which services it names."""
    names = ("platform", "platform_version", "platform_event")
    properties = {name: signal_set.first(name)[:64] for name in names if signal_set.first(name)}
    if tc is not None:
        properties |= {
            "cmp_id": str(tc.cmp_id), "cmp_version": str(tc.cmp_version), "gvl": str(tc.gvl_version),
            "tcf_policy": str(tc.policy_version),
        }  # fmt: skip
    if signal_set.services:
        joined = "|".join(sorted(signal_set.services))
        properties["services"] = hashlib.sha256(joined.encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return tuple(sorted(properties.items()))
