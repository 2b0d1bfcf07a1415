"""Whether a decision may be personal: what the consent gate decides about the same signals, by its policy and ledger."""

from collections.abc import Awaitable, Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple, Protocol

from consumers.decisions.sites import SiteGroups
from infra.settings import Settings
from streams.consent.decision.decide import decide
from streams.consent.formats.evidence import SignalEvidence, SignalReader
from streams.consent.formats.gvl import GvlFolder
from streams.consent.ledger.ledger import DAY_MS, Moment, Times, date_choice, evaluate_state
from streams.consent.policy import BITS, PACKAGED, Policy, load_policy

PERSONALIZATION = BITS["personalization"]
EVENT = "widget_viewed"
"""What a decision leads to; which purposes are granted does not depend on it."""
KEPT_EVIDENCE = 4_096
LONGEST_KEPT = 4_096
"""Characters of signals: longer ones are read each time, so that memory stays bounded whatever is sent."""
NO_TIMES: Times = {}


class ConsentQuestion(NamedTuple):
    """What a request says of consent, and of whom."""

    signals: Mapping[str, str]
    region: str
    origin: str
    """The page's, as `Origin` has it; empty where the request names none."""
    nodes: Sequence[str]
    """The visitor's identifier under every version of the keys; none where it identifies nobody."""


class ConsentLedger(Protocol):
    """Where the consent gate's memory is read."""

    def read(self, regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> Awaitable[list[Times] | None]:
        """What is remembered of these nodes together, group by group; None where it cannot be told now."""
        ...


class SignalledConsent(NamedTuple):
    """What a request's own signals say."""

    evidence: SignalEvidence
    granted: bool
    """Personalization, where nothing is remembered."""


class ConsentRules:
    """The gate's rules under one policy."""

    def __init__(self, policy: Policy, lists: GvlFolder | None = None) -> None:
        self._policy = policy
        self._reader = SignalReader(policy, lists)
        self._kept = lru_cache(KEPT_EVIDENCE)(self._read)

    @property
    def memory_grants(self) -> bool:
        """Whether what is remembered can grant what a request's signals leave open."""
        return self._policy.memory.use_stored_state

    def read(self, region: str, signals: Mapping[str, str], now_ms: int) -> SignalledConsent:
        """What signals say in a region, on the day of `now_ms`."""
        items = tuple(signals.items())
        longer = sum(len(name) + len(text) for name, text in items) > LONGEST_KEPT
        return (self._read if longer else self._kept)(region, items, now_ms // DAY_MS)

    def _read(self, region: str, signals: tuple[tuple[str, str], ...], day: int) -> SignalledConsent:
        evidence = self._reader.read(region, dict(signals), day * DAY_MS)
        return SignalledConsent(evidence, bool(decide(self._policy, EVENT, evidence).mask & PERSONALIZATION))

    def grants(self, signalled: SignalledConsent, times: Times, now_ms: int) -> bool:
        """Whether personalization is granted to a visitor of whom this is remembered."""
        if not times:
            return signalled.granted
        claim, memory = signalled.evidence.claim, self._policy.memory
        granted_at = date_choice(claim, now_ms, is_choice=False, undated_grants_lift=memory.undated_grants_lift).granted_at
        oldest = now_ms - memory.max_age_days * DAY_MS
        recalled = {
            purpose: evaluate_state(times, purpose, Moment(now_ms, granted_at if purpose in claim.granted else 0, oldest))
            for purpose in self._policy.purposes
        }
        return bool(decide(self._policy, EVENT, signalled.evidence, recalled).mask & PERSONALIZATION)


class ConsentGate:
    """Rules and memory together; in doubt nothing is granted."""

    def __init__(self, rules: ConsentRules, sites: SiteGroups, ledger: ConsentLedger) -> None:
        self._rules = rules
        self._sites = sites
        self._ledger = ledger

    async def grants_personalization(self, question: ConsentQuestion, now_ms: int) -> bool:
        """Whether a decision may be personal: of every group of sites that the page may belong to nothing speaks against it."""
        signalled = self._rules.read(question.region, question.signals, now_ms)
        if not signalled.granted and not self._rules.memory_grants:
            return False
        if not question.nodes:
            return signalled.granted
        groups = self._sites.groups(question.origin)
        states = await self._ledger.read(signalled.evidence.regime.value, groups, question.nodes) if groups else None
        return bool(states) and all(self._rules.grants(signalled, times, now_ms) for times in states or ())


def consent_policy(settings: Settings) -> Policy:
    """The policy file of the consent room. ConfigError where it does not load."""
    return load_policy(settings.policy or PACKAGED)


def consent_rules(settings: Settings, policy: Policy) -> ConsentRules:
    """The rules of this installation."""
    return ConsentRules(policy, GvlFolder(settings.gvl_dir))
