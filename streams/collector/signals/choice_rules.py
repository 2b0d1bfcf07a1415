"""Which choices the collector understands: what it would take and the gate would not read must not be answered 200. Pure rules.

A choice without an event has no second chance: nobody looks at it again, and the person was told that it counts.
"""

import re
from collections.abc import Iterator, Mapping

from infra.parsing.site import site_of
from streams.collector.masking import mask_text
from streams.collector.protocols.choices import SentChoice, plain_name
from streams.collector.signals.policy_source import PolicySource
from streams.collector.signals.signals import MAX_NAME
from streams.collector.write_keys import WriteKeyStore
from streams.consent.formats import gpp
from streams.consent.formats import tc_string as tcstring
from streams.consent.formats.consent_mode import consent_mode
from streams.consent.formats.consent_value import ConsentValue, parse_value
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.gpc import parse_gpc
from streams.consent.formats.signal_names import standard_name
from streams.consent.formats.signal_set import SignalSet
from streams.consent.formats.tcf import FINAL_STATUS, NO, YES
from streams.consent.policy import Policy, Regime

MOST_SITES = 4_096
"""Hosts of events that are remembered."""
MOST_NAMED = 20
"""Sites that a refusal names."""

OPEN_STATUS = "cmpuishown"
STATUSES = " or ".join(FINAL_STATUS)
GRANTED_OR_DENIED = "granted or denied"
YES_OR_NO = "1 or 0"
EXPECTED = {
    "gcs": "G1 and two of 1, 0 and -, as in G100",
    "gcd": "Consent Mode's gcd parameter as Google's tags write it",
    "gpp": "an IAB GPP string",
    "tc_string": "an IAB TCF string",
    "gpc": YES_OR_NO,
    "gdpr_applies": YES_OR_NO,
    "npa": YES_OR_NO,
    "us_privacy": "a US Privacy string, as in 1YNN",
    "tc_event_status": STATUSES,
}
"""What to send, by the name of the signal."""


def signal_problem(signals: Mapping[str, str], policy: Policy, now_ms: int) -> str:
    """What is not understood about the signals of a choice, and what to send instead; empty where all of them are."""
    for name, value in signals.items():
        if not policy.reads(name):
            return (
                f"consent.{_shown(plain_name(name))} is not known: send gcs, gcd, tc_string, gpp, us_privacy, gpc, cm.<Consent "
                f"Mode signal>, or a name of the policy, such as {', '.join(f'cmp.{purpose}' for purpose in policy.purposes)}"
            )
        if expected := _expected(name, value, policy):
            return f"consent.{_shown(plain_name(name))} cannot be read: send {expected}"
    if problem := _tcf_problem(signals):
        return problem
    if not _decides(signals, policy, now_ms):
        return "consent says neither yes nor no of anything: send what was granted or denied"
    return ""


class KnownSites:
    """Sites that choices can be about: those of write keys and beneath them, the policy's, and hosts of events here."""

    def __init__(self, keys: WriteKeyStore, policy: PolicySource) -> None:
        self._keys = keys
        self._policy = policy
        self._hosts: dict[str, None] = {}

    def add(self, host: str) -> None:
        """Remember the host of an event; the oldest are forgotten."""
        if host not in self._hosts:
            if len(self._hosts) >= MOST_SITES:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[host] = None

    def knows(self, site: str) -> bool:
        """Whether events of this site are expected."""
        if site in self._hosts or any(site == one or site.endswith(f".{one}") for one in self._sites()):
            return True
        groups = self._policy.policy().groups
        return any(site in (one, site_of(one)) for pair in groups.items() for one in pair)

    def of_source(self, source: str) -> list[str]:
        """Sites of a source's keys."""
        return sorted({key.site for key in self._keys.in_force() if key.source == source})

    def _sites(self) -> Iterator[str]:
        return (key.site for key in self._keys.in_force())


class ChoiceRules:
    """Judges choices by the policy in force and the sites that are known."""

    def __init__(self, policy: PolicySource, keys: WriteKeyStore) -> None:
        self._policy = policy
        self.sites = KnownSites(keys, policy)

    def holds_for(self, site: str) -> list[str]:
        """Sites on which a choice about this one counts."""
        return self._policy.policy().sites(site)

    def problem(self, choice: SentChoice, source: str, now_ms: int) -> str:
        """Why a choice is refused, naming the field and what to send; empty where it is understood."""
        if choice.site and not self.sites.knows(choice.site):
            sites = ", ".join(self.sites.of_source(source)[:MOST_NAMED])
            return f"site is none of which events come: leave it out, or send the host of the page, such as {sites}"
        # A withdrawal says what it withdraws by itself.
        return signal_problem(choice.signals, self._policy.policy(), now_ms) if choice.kind == "choice" else ""


def _expected(name: str, value: str, policy: Policy) -> str:
    """What a signal should be, where its value is none that can be read; else nothing."""
    standard, text = standard_name(name), value.strip()
    if standard is None:
        parts = SignalSet({name: value}, policy.vocabulary)
        return (
            GRANTED_OR_DENIED
            if parts.unreadable or any(choice.value is ConsentValue.INVALID for choice in parts.choices)
            else ""
        )
    if standard.startswith("cm."):
        return "" if parse_value(text) is not ConsentValue.INVALID else GRANTED_OR_DENIED
    return "" if _readable(standard, text, policy) else EXPECTED[standard]


def _decides(signals: Mapping[str, str], policy: Policy, now_ms: int) -> bool:
    """Whether the gate hears a yes or a no in them, of any purpose; flags that are `-`, and `gpc` of 0, say neither."""
    reader = SignalReader(policy)
    evidence = (reader.read_under(regime, signals, now_ms) for regime in Regime)
    return any(formats for one in evidence for formats in one.results.values())


def _readable(standard: str, text: str, policy: Policy) -> bool:
    if standard in ("gcs", "gcd", "npa"):
        words = consent_mode({standard: [text]}, policy.letters)
        return ConsentValue.INVALID not in words.values()
    if standard == "gpc":
        return bool(text) and parse_gpc(text) is not ConsentValue.INVALID
    if standard == "us_privacy":
        return bool(text) and gpp.parse_us_privacy(text) is not ConsentValue.INVALID
    if standard == "gdpr_applies":
        return text.lower() in YES | NO
    if standard == "tc_event_status":
        return text.lower() in (*FINAL_STATUS, OPEN_STATUS)
    try:
        if standard == "gpp":
            return not gpp.decode(text).unreadable
        if standard == "tc_string":
            tcstring.decode(text)
    except (gpp.InvalidGpp, tcstring.InvalidTcString):
        return False
    return True


def _tcf_problem(signals: Mapping[str, str]) -> str:
    """A TC string counts only once the banner is closed and where GDPR applies: without both words it would be forgotten."""
    values: dict[str, list[str]] = {}
    for name, value in signals.items():
        values.setdefault(standard_name(name) or "", []).append(value.strip())
    strings = any(gpp.decode(text).tc_string for text in values.get("gpp", ()))
    field = "tc_string" if "tc_string" in values else "gpp" if strings else ""
    if not field:
        return ""
    statuses = [text.lower() for text in values.get("tc_event_status", ())]
    if not statuses:
        return f"consent.tc_event_status is missing: beside {field} send {STATUSES}"
    if OPEN_STATUS in statuses:
        return f"consent.tc_event_status says that the banner is open: beside {field} send {STATUSES}"
    applies = {text.lower() for text in values.get("gdpr_applies", ())}
    if not applies:
        return f"consent.gdpr_applies is missing: beside {field} send 1"
    if applies & NO:
        return f"consent.gdpr_applies must be 1 beside {field}: where GDPR does not apply the string says nothing"
    return ""


def _shown(name: str) -> str:
    """A name as a message may hold it."""
    return re.sub(r"[^\x20-\x7e]", "?", mask_text(name[:MAX_NAME]))[:64]


__all__ = ["ChoiceRules", "KnownSites", "signal_problem"]
