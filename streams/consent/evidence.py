"""Everything that one event's signals say, purpose by purpose and format by format; and when it was chosen.

Strings are decoded once and kept, failures too: what a visitor chose stays the same string for months.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

from streams.consent import gpp as gpp_strings
from streams.consent.gpp import GppString
from streams.consent.gvl import GvlFolder
from streams.consent.ledger import Said
from streams.consent.policy import Policy, Purpose, Regime
from streams.consent.reason import Reason
from streams.consent.signals import (
    Signals,
    Word,
    claims_gdpr,
    cmp_word,
    consent_mode,
    consent_mode_word,
    gdpr_applies,
    gpc_word,
    has_cmp_choice,
)
from streams.consent.tcf import DAY_MS, Demand, judge
from streams.consent.tcstring import InvalidTcString, TcString, decode

SKEW_MS = 300_000
"""How far a sender's clock may be ahead before the time of a choice is not believed."""


KEPT_STRINGS = 8_192
LONGEST_KEPT = 2_048
"""Characters: longer strings are decoded each time, so that memory stays bounded whatever is sent."""
FINAL_STATUS = ("tcloaded", "useractioncomplete")
"""Event statuses of a TC string after which the visitor's choice stands; before them the banner is open."""
GRANT = frozenset({Word.GRANT})
VISITORS = frozenset({Reason.PURPOSE, Reason.VENDOR, Reason.GPC})
"""Denials that the visitor made; what is unreadable, too old or not yet chosen is none."""

WHY: Mapping[Word, Reason] = {Word.GRANT: Reason.OK_CONSENT, Word.INVALID: Reason.MALFORMED}
"""The reason of a word where its format gives no finer one."""


class Heard(NamedTuple):
    """What one format says about one purpose, and why."""

    word: Word
    reason: Reason


OK = (Reason.OK_CONSENT, Reason.OK_LI)
HEARD = {reason: Heard(Word.GRANT if reason in OK else Word.DENY, reason) for reason in Reason}
"""What a TC string says, by its reason."""
PENDING, UNMAPPED = Heard(Word.DENY, Reason.PENDING), Heard(Word.UNDECODED, Reason.UNMAPPED)


@dataclass(frozen=True, slots=True)
class Evidence:
    """What one event's signals say under one policy, in one region, on one day."""

    regime: Regime
    heard: Mapping[str, Mapping[str, Heard]]
    """Purpose -> format -> what it says."""
    said: Said
    """What the visitor chose, as far as it is remembered."""
    platform: str = ""
    """Consent platform: the TC string's CMP id, or its name."""
    gvl: int = 0
    """Vendor list version of the TC string."""
    fingerprint: tuple[tuple[str, str], ...] = ()
    """Name and version of the platform, vendor list, policy version, its services: what changes when its set-up does."""


class Reader:
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

    def regime(self, region: str, signals: Signals) -> Regime:
        """What silence means for this event."""
        return Regime.OPT_IN if claims_gdpr(signals) else self._policy.regime(region)

    def read(self, region: str, signals: Signals, now: int) -> Evidence:
        """The evidence of an event. `now`: collector time, of which only the day matters."""
        return self.hear(self.regime(region, signals), signals, now)

    def hear(self, regime: Regime, signals: Signals, now: int) -> Evidence:
        """The same under a given regime."""
        gpp = self._gpp(signals)
        tc = self._tc_string(signals, gpp)
        formats = self._formats(regime, signals, (tc, gpp), now)
        heard = {
            name: {which: one for which, listen in formats if (one := listen(purpose)) is not None}
            for name, purpose in self._policy.purposes.items()
        }
        granted_at = denied_at = chosen_at(signals)
        if not isinstance(tc, TcString):
            return Evidence(regime, heard, _said(heard, granted_at, denied_at), signals.get("platform", ""), 0, marks(signals))
        if not granted_at:
            granted_at, denied_at = tc.last_updated_ms, tc.last_updated_ms + DAY_MS - 1
        platform = signals.get("platform") or str(tc.cmp_id)
        return Evidence(regime, heard, _said(heard, granted_at, denied_at), platform, tc.gvl_version, marks(signals, tc))

    def _formats(
        self, regime: Regime, signals: Signals, strings: tuple[TcString | Reason | None, GppString | Reason | None], now: int
    ) -> list[tuple[str, Callable[[Purpose], Heard | None]]]:
        """The formats that an event has, and how to ask each about a purpose."""
        tc, gpp = strings
        found: list[tuple[str, Callable[[Purpose], Heard | None]]] = []
        chosen = has_cmp_choice(signals)
        if chosen:
            found.append(("cmp", lambda purpose: _heard(cmp_word(signals, purpose.cmp))))
        mode = consent_mode(signals, self._policy.letters)
        if mode:
            # It narrows what the platform's own words grant, and adds nothing to them.
            narrows = chosen or tc is not None
            found.append(("consent_mode", lambda purpose: _heard(_mode_word(mode, purpose, regime, narrows))))
        objection = {Word.DENY: Heard(Word.DENY, Reason.GPC), Word.INVALID: Heard(Word.INVALID, Reason.MALFORMED)}.get(
            gpc_word(signals)
        )
        if objection is not None:
            found.append(("gpc", lambda purpose: objection if purpose.denied_by_gpc else None))
        if tc is not None:
            final = bool(gdpr_applies(signals)) and signals.get("tc_event_status", "").strip().lower() in FINAL_STATUS
            found.append(("tc_string", self._tc_words(tc, final, now)))
        if gpp is not None:
            found.append(("gpp", lambda purpose: _gpp_word(gpp, purpose, regime)))
        return found

    def _gpp(self, signals: Signals) -> GppString | Reason | None:
        """The GPP string, or why it cannot be read; None where there is none."""
        text = signals.get("gpp", "")
        if not text:
            return None
        return self._kept_gpp(text) if len(text) <= LONGEST_KEPT else _decoded_gpp(text)

    def _tc_string(self, signals: Signals, gpp: GppString | Reason | None) -> TcString | Reason | None:
        """The TC string (the event's own, else GPP's), or why it cannot be read; None without one, or where it is void."""
        text = signals.get("tc_string", "") or (gpp.tc_string if isinstance(gpp, GppString) else "")
        if not text or gdpr_applies(signals) is False:
            return None
        return self._kept(text) if len(text) <= LONGEST_KEPT else _decoded(text)

    def _tc_words(self, tc: TcString | Reason, final: bool, now: int) -> Callable[[Purpose], Heard]:
        if isinstance(tc, Reason):
            unreadable = Heard(Word.INVALID, tc)
            return lambda _: unreadable
        rules = self._policy.tcf
        lists = self._lists.version(tc.gvl_version) if final and rules.vendor and self._lists is not None else None

        def word(purpose: Purpose) -> Heard:
            if not final:
                return PENDING
            if not purpose.tcf:
                return UNMAPPED
            return HEARD[judge(tc, self._demands[purpose.tcf], lists, now)]

        return word


def _heard(word: Word) -> Heard | None:
    """What is heard where a word says everything."""
    return None if word is Word.UNKNOWN else Heard(word, WHY.get(word, Reason.PURPOSE))


def _mode_word(mode: Mapping[str, Word], purpose: Purpose, regime: Regime, narrows: bool) -> Word:
    word = consent_mode_word(mode, purpose.consent_mode)
    if word is Word.UNCONFIRMED and regime is Regime.OPT_OUT:
        word = Word.GRANT
    return Word.UNKNOWN if word is Word.GRANT and narrows else word


def _said(heard: Mapping[str, Mapping[str, Heard]], granted_at: int, denied_at: int) -> Said:
    """Purposes that are granted by all that is heard, and those that the visitor denies. What is unreadable is neither."""
    granted, denied = set[str](), set[str]()
    for purpose, formats in heard.items():
        words = {one.word for one in formats.values()}
        if words == GRANT:
            granted.add(purpose)
        elif Word.DENY in words and any(one.word is Word.DENY and one.reason in VISITORS for one in formats.values()):
            denied.add(purpose)
    return Said(frozenset(granted), frozenset(denied), granted_at, denied_at)


def _decoded(text: str) -> TcString | Reason:
    try:
        return decode(text)
    except InvalidTcString as error:
        return error.reason


def chosen_at(signals: Signals) -> int:
    """When the choice was made, if the sender says so: `chosen_ts`, milliseconds or ISO 8601. 0 = unknown."""
    value = signals.get("chosen_ts", "").strip()
    if not value:
        return 0
    try:
        return int(value) if value.isascii() and value.isdigit() else _iso(value)
    except (ValueError, OverflowError):
        return 0


def believed(said: Said, now: int) -> Said:
    """The same, without the times of a clock that is ahead: such a choice counts as one of unknown time."""
    if max(said.granted_at, said.denied_at) > now + SKEW_MS:
        return said._replace(granted_at=0, denied_at=0)
    if said.granted_at <= now and said.denied_at <= now:
        return said
    return said._replace(granted_at=min(said.granted_at, now), denied_at=min(said.denied_at, now))


def _iso(text: str) -> int:
    found = datetime.fromisoformat(text)
    return int((found if found.tzinfo else found.replace(tzinfo=UTC)).timestamp() * 1000)


def _decoded_gpp(text: str) -> GppString | Reason:
    try:
        return gpp_strings.decode(text)
    except gpp_strings.InvalidGpp:
        return Reason.MALFORMED


def _gpp_word(gpp: GppString | Reason | None, purpose: Purpose, regime: Regime) -> Heard | None:
    """US sections speak about sale, sharing and advertising: what GPC objects to as well. Not to object is no consent."""
    if gpp is None:
        return None
    if isinstance(gpp, Reason):
        return Heard(Word.INVALID, gpp)
    word = gpp_strings.sale_and_sharing(gpp) if purpose.denied_by_gpc else Word.UNKNOWN
    if word is Word.DENY:
        return Heard(word, Reason.PURPOSE)
    return Heard(word, Reason.OK_CONSENT) if word is Word.GRANT and regime is Regime.OPT_OUT else None


def marks(signals: Signals, tc: TcString | None = None) -> tuple[tuple[str, str], ...]:
    """How the consent platform is set up, as far as an event shows it: its metadata, and which services it names."""
    found = {name: signals[name][:64] for name in ("platform", "platform_version", "platform_event") if signals.get(name)}
    if tc is not None:
        found |= {
            "cmp_id": str(tc.cmp_id), "cmp_version": str(tc.cmp_version), "gvl": str(tc.gvl_version),
            "tcf_policy": str(tc.policy_version),
        }  # fmt: skip
    services = sorted(name for name in signals if name.startswith("cmp."))
    if services:
        found["services"] = hashlib.sha256("|".join(services).encode("utf-8", "surrogatepass")).hexdigest()[:8]
    return tuple(sorted(found.items()))
