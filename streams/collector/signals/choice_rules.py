"""Rules for choices: one that the consent stage could not read must not be answered 200. Pure but for the policy's reload.

A choice without an event is sent once, and the person is told that it counts.
"""

import re
from collections.abc import Iterator, Mapping

from infra.parsing.site import site_of
from streams.collector.masking import mask_text
from streams.collector.protocols.choices import SentChoice, strip_repeat_suffix
from streams.collector.signals.policy_source import PolicySource
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

MAX_SITES = 4_096
"""Hosts of events that are kept in memory."""
MAX_LISTED_SITES = 20
"""Sites that an error message lists."""

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
"""The expected value by signal name, for error messages."""


def signal_problem(signals: Mapping[str, str], policy: Policy, now_ms: int) -> str:
    """Return which signal of a choice cannot be read and what to send instead; empty where all can."""
    for name, value in signals.items():
        if not policy.reads(name):
            return (
                f"consent.{_printable_name(name)} is not known: send gcs, gcd, tc_string, gpp, us_privacy, gpc, cm.<Consent "
                f"Mode signal>, or a name of the policy, such as {', '.join(f'cmp.{purpose}' for purpose in policy.purposes)}"
            )
        if expected := _expected_value(name, value, policy):
            return f"consent.{_printable_name(name)} cannot be read: send {expected}"
    if problem := _tcf_problem(signals):
        return problem
    if not _has_decision(signals, policy, now_ms):
        return "consent says neither yes nor no of anything: send what was granted or denied"
    return ""


class KnownSites:
    """Sites to which choices can apply: those of write keys and their subdomains, those of the policy, and hosts of events."""

    def __init__(self, keys: WriteKeyStore, policy: PolicySource) -> None:
        self._keys = keys
        self._policy = policy
        self._hosts: dict[str, None] = {}

    def add(self, host: str) -> None:
        """Add the host of an event. Beyond `MAX_SITES` the oldest is removed."""
        if host not in self._hosts:
            if len(self._hosts) >= MAX_SITES:
                del self._hosts[next(iter(self._hosts))]
            self._hosts[host] = None

    def includes(self, site: str) -> bool:
        """Return whether choices can apply to this site."""
        if site in self._hosts or any(site == site_name or site.endswith(f".{site_name}") for site_name in self._sites()):
            return True
        groups = self._policy.policy().groups
        return any(site in (site_name, site_of(site_name)) for pair in groups.items() for site_name in pair)

    def sites_of_source(self, source: str) -> list[str]:
        """Return the sites of a source's active keys."""
        return sorted({key.site for key in self._keys.active_keys() if key.source == source})

    def _sites(self) -> Iterator[str]:
        return (key.site for key in self._keys.active_keys())


class ChoiceRules:
    """Validates choices by the current policy and the known sites."""

    def __init__(self, policy: PolicySource, keys: WriteKeyStore) -> None:
        self._policy = policy
        self.sites = KnownSites(keys, policy)

    def covered_sites(self, site: str) -> list[str]:
        """Return the sites to which a choice about this one applies."""
        return self._policy.policy().sites(site)

    def problem(self, choice: SentChoice, source: str, now_ms: int) -> str:
        """Return why a choice is refused, with the field and what to send; empty where it is valid."""
        if choice.site and not self.sites.includes(choice.site):
            sites = ", ".join(self.sites.sites_of_source(source)[:MAX_LISTED_SITES])
            return f"site is none of which events come: leave it out, or send the host of the page, such as {sites}"
        # A withdrawal needs no signals.
        return signal_problem(choice.signals, self._policy.policy(), now_ms) if choice.kind == "choice" else ""


def _expected_value(name: str, value: str, policy: Policy) -> str:
    """Return what to send where the value of a signal cannot be read; empty where it can."""
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
    return "" if _is_readable(standard, text, policy) else EXPECTED[standard]


def _has_decision(signals: Mapping[str, str], policy: Policy, now_ms: int) -> bool:
    """Return whether the signals grant or deny any purpose. Flags that are `-` and a `gpc` of 0 do neither."""
    reader = SignalReader(policy)
    evidence = (reader.read_under(regime, signals, now_ms) for regime in Regime)
    return any(formats for regime_evidence in evidence for formats in regime_evidence.results.values())


def _is_readable(standard: str, text: str, policy: Policy) -> bool:
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
    """Return what a TC string lacks: without a final status and `gdpr_applies` the consent stage ignores it."""
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


def _printable_name(name: str) -> str:
    """Return a signal's name without its repeat suffix, masked, in ASCII, at most 64 characters, for a message."""
    return re.sub(r"[^\x20-\x7e]", "?", mask_text(strip_repeat_suffix(name)))[:64]


__all__ = ["ChoiceRules", "KnownSites", "signal_problem"]
