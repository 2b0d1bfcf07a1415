"""Whether a decision may be personal, by the policy, rules and ledger of the consent stage."""

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
"""The event that follows a decision; which purposes are granted does not depend on it."""
MAX_CACHED_EVIDENCE = 4_096
MAX_CACHED_CHARACTERS = 4_096
"""Characters of the longest signals that are cached, so that the cache is bounded in bytes."""
NO_TIMES: Times = {}


class ConsentQuery(NamedTuple):
    """The signals, region, page and identifiers of a request."""

    signals: Mapping[str, str]
    region: str
    origin: str
    """The header `Origin`; empty where the request has none."""
    nodes: Sequence[str]
    """The visitor's nodes under every key version; none where the identifier is junk."""


class ConsentLedger(Protocol):
    """The consent ledger as decisions read it."""

    def read_states(self, regulation: str, groups: Sequence[str], nodes: Sequence[str]) -> Awaitable[list[Times] | None]:
        """Return the merged state of these nodes for each group; None where the ledger cannot be read."""
        ...


class SignalledConsent(NamedTuple):
    """The evidence of a request's signals."""

    evidence: SignalEvidence
    granted: bool
    """Whether personalization is granted where the ledger has no state."""


class ConsentRules:
    """The rules of the consent stage under one policy."""

    def __init__(self, policy: Policy, lists: GvlFolder | None = None) -> None:
        self._policy = policy
        self._reader = SignalReader(policy, lists)
        self._read_cached = lru_cache(MAX_CACHED_EVIDENCE)(self._read)

    @property
    def memory_grants(self) -> bool:
        """Whether stored grants can answer what a request's signals leave open."""
        return self._policy.memory.use_stored_state

    def read_signals(self, region: str, signals: Mapping[str, str], now_ms: int) -> SignalledConsent:
        """Read signals in a region, on the day of `now_ms`. Cached."""
        items = tuple(signals.items())
        longer = sum(len(name) + len(text) for name, text in items) > MAX_CACHED_CHARACTERS
        return (self._read if longer else self._read_cached)(region, items, now_ms // DAY_MS)

    def _read(self, region: str, signals: tuple[tuple[str, str], ...], day: int) -> SignalledConsent:
        evidence = self._reader.read(region, dict(signals), day * DAY_MS)
        return SignalledConsent(evidence, bool(decide(self._policy, EVENT, evidence).mask & PERSONALIZATION))

    def grants(self, signalled: SignalledConsent, times: Times, now_ms: int) -> bool:
        """Return whether personalization is granted to a visitor with this stored state."""
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
    """Applies the rules to signals and ledger; in doubt nothing is granted."""

    def __init__(self, rules: ConsentRules, sites: SiteGroups, ledger: ConsentLedger) -> None:
        self._rules = rules
        self._sites = sites
        self._ledger = ledger

    async def grants_personalization(self, query: ConsentQuery, now_ms: int) -> bool:
        """Return whether personalization is granted in every group of sites to which the page may belong."""
        signalled = self._rules.read_signals(query.region, query.signals, now_ms)
        if not signalled.granted and not self._rules.memory_grants:
            return False
        if not query.nodes:
            return signalled.granted
        groups = self._sites.groups(query.origin)
        states = await self._ledger.read_states(signalled.evidence.regime.value, groups, query.nodes) if groups else None
        return bool(states) and all(self._rules.grants(signalled, times, now_ms) for times in states or ())


def consent_policy(settings: Settings) -> Policy:
    """Load the consent policy. ConfigError where it does not load."""
    return load_policy(settings.policy or PACKAGED)


def consent_rules(settings: Settings, policy: Policy) -> ConsentRules:
    """Return the rules of this installation."""
    return ConsentRules(policy, GvlFolder(settings.gvl_dir))
