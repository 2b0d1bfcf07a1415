"""The consent policy: one YAML file, validated, identified by a hash of its content. Errors name the file and the line."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import MappingProxyType
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator
from pydantic_core import ErrorDetails

from infra.errors import ConfigError
from infra.parsing.region import REGION, region_of
from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.signal_names import CONSENT_MODE_SIGNALS
from streams.consent.formats.vocabulary import Meaning, Vocabulary

PACKAGED = Path(__file__).with_name("policy.yaml")

BITS: Mapping[str, int] = MappingProxyType({"analytics": 1, "marketing": 2, "personalization": 4})
"""Purpose -> bit of the column `consent_purposes`."""

OnDeny = Literal["anonymise", "drop"]
PurposeName = Literal["analytics", "marketing", "personalization"]
ModeSignal = Literal["ad_storage", "analytics_storage", "ad_user_data", "ad_personalization"]
SiteName = Annotated[str, Field(pattern=r"^[^|\s]{1,253}$")]
Letter = Literal["unknown", "deny", "grant", "unconfirmed"]
Name = Annotated[str, Field(pattern=r"^[^\s#|](.{0,126}[^\s#|])?$")]
"""Of a choice, as a consent platform names it; compared without regard to case, blanks, `_` and `-`."""


GDPR_REGIONS = frozenset(
    {
        "AT", "BE", "BG", "HR", "CY", "CZ", "DK", "EE", "FI", "FR", "DE", "GR", "HU", "IE", "IT", "LV", "LT", "LU", "MT", "NL",
        "PL", "PT", "RO", "SK", "SI", "ES", "SE", "IS", "LI", "NO", "GB", "CH", "GF", "GP", "MQ", "RE", "YT", "MF", "AX", "GI",
    }
)  # fmt: skip
"""ISO 3166-1 codes of the EEA with its outermost regions, the United Kingdom and Switzerland."""


class Regime(StrEnum):
    """What an event without a signal means."""

    OPT_IN = "opt-in"
    OPT_OUT = "opt-out"


class Purpose(BaseModel):
    """The signals of one purpose."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cmp: tuple[Name, ...] = ()
    consent_mode: tuple[ModeSignal, ...] = ()
    tcf: tuple[Annotated[int, Field(ge=1, le=24)], ...] = ()
    denied_by_gpc: bool


class PlatformName(BaseModel):
    """Purposes that a yes under a platform's name grants and a no denies, where they differ."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    grants: tuple[PurposeName, ...] = ()
    denies: tuple[PurposeName, ...] = ()


class SignalRules(BaseModel):
    """How signals are read where no format says so."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    unmapped_refusals_deny: bool = True
    empty_denies: bool = True
    gpc_regions: tuple[Annotated[str, Field(pattern=rf"^{REGION}$")], ...] = ()


class TcfRules(BaseModel):
    """How TC strings are read."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    vendor: int = Field(0, ge=0, le=65_535)
    max_age_days: int = Field(395, ge=1, le=1_000)


class MemoryRules(BaseModel):
    """What is stored beyond one event."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    use_stored_state: bool = False
    undated_grants_lift: bool = False
    max_age_days: int = Field(395, ge=1, le=1_000)
    site_groups: dict[SiteName, tuple[SiteName, ...]] = {}
    choice_events: tuple[Annotated[str, Field(pattern=r"^[A-Za-z0-9_.\-]{1,128}$")], ...] = ()

    @field_validator("site_groups")
    @classmethod
    def _one_group_a_site(cls, groups: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
        listed = [site for sites in groups.values() for site in sites]
        doubled = sorted({site for site in listed if listed.count(site) > 1})
        if doubled:
            raise ValueError(f"{', '.join(doubled)} stands in more than one group")
        return groups


class EventRule(BaseModel):
    """What events of one name require."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    requires: tuple[PurposeName, ...]
    on_deny: OnDeny


class PolicyFile(BaseModel):
    """The content of the file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    controller: Annotated[str, Field(max_length=500)] = ""
    purposes: dict[PurposeName, Purpose] = Field(min_length=1)
    platforms: dict[Name, dict[Name, tuple[PurposeName, ...] | PlatformName]] = {}
    signals: SignalRules = SignalRules()
    tcf: TcfRules = TcfRules()
    memory: MemoryRules = MemoryRules()
    opt_out_regions: tuple[Annotated[str, Field(pattern=rf"^{REGION}$")], ...]
    events: dict[Annotated[str, Field(pattern=r"^([A-Za-z0-9_.\-]{1,128}\*?|\*)$")], EventRule]
    anonymous_fields: tuple[str, ...]
    click_ids: tuple[Annotated[str, Field(pattern=r"^_*[A-Za-z0-9][A-Za-z0-9_]{1,31}\*?$")], ...]
    gcd_letters: dict[Annotated[str, Field(pattern=r"^[a-z]$")], Letter]

    @field_validator("anonymous_fields")
    @classmethod
    def _never_ids(cls, fields: tuple[str, ...]) -> tuple[str, ...]:
        forbidden = sorted(set(fields) & NEVER_ANONYMOUS)
        if forbidden:
            raise ValueError(f"{', '.join(forbidden)} would make an anonymised event linkable, or is set by the gate itself")
        return fields

    @model_validator(mode="after")
    def _requires_known(self) -> "PolicyFile":
        for name, rule in self.events.items():
            unknown = sorted(set(rule.requires) - set(self.purposes))
            if unknown:
                raise ValueError(f"the events line {name!r} requires {', '.join(unknown)}, which is missing under purposes")
        return self


NEVER_ANONYMOUS = frozenset(
    {
        "event_id", "collector_ts", "event_ts", "region", "signals", "identifiers", "decision_token", "order_id", "ip_prefix",
        "user_agent", "click_ids", "match_tokens", "page_url", "page_referrer", "properties",
        "items", "session_id", "group_id", "language", "screen", "timezone", "user_properties", "problems",
    }
)  # fmt: skip
"""Fields that no policy may keep on an anonymised event."""


@dataclass(frozen=True)
class Policy:
    """A policy in force."""

    rev: str
    purposes: Mapping[str, Purpose]
    """In the file's order."""
    opt_out_regions: frozenset[str]
    events: Mapping[str, EventRule]
    anonymous_fields: frozenset[str]
    click_ids: frozenset[str]
    """Lower case; names that end with `*` are patterns."""
    letters: Mapping[str, ConsentValue]
    controller: str
    """Who is responsible, for the audit."""
    tcf: TcfRules
    memory: MemoryRules
    groups: Mapping[str, str]
    """Site -> group of sites that share stored states."""
    vocabulary: Vocabulary
    """Names of consent platforms' choices."""
    signals: SignalRules

    def reads(self, name: str) -> bool:
        """Whether the policy reads a signal of this name, as sent."""
        return self.vocabulary.knows(name)

    def gpc_applies(self, region: str) -> bool:
        """Whether Global Privacy Control is an objection in this region; it is where the region is unknown."""
        region = region_of(region)
        listed = self.signals.gpc_regions
        return not listed or not region or region in listed or region[:2] in listed

    def group(self, site: str) -> str:
        """The group of a site: the policy's, else the site itself without `www.`."""
        group = self.groups.get(site)
        if group is None:
            bare = site.removeprefix("www.")
            group = self.groups.get(bare, bare)
        return group

    def sites(self, site: str) -> list[str]:
        """The sites to which a choice about this site applies."""
        group = self.group(site)
        named = {name for name, site_group in self.groups.items() if site_group == group}
        return sorted(named | {f"www.{name}" for name in named} if named else {group, f"www.{group}"})

    def regime(self, region: str) -> Regime:
        """The regime of a region: opt-out where the policy lists it, else opt-in, also for an unknown region."""
        region = region_of(region)
        opts_out = region in self.opt_out_regions or region[:2] in self.opt_out_regions
        return Regime.OPT_OUT if opts_out else Regime.OPT_IN

    def under_gdpr(self, region: str) -> bool:
        """Whether the GDPR or a similar law may apply: in `GDPR_REGIONS`, and where the region is unknown."""
        region = region_of(region)
        return not region or region[:2] in GDPR_REGIONS

    def rule(self, event_name: str) -> EventRule | None:
        """The rule of an event: its exact name, else the longest matching `prefix*`; None where nothing matches."""
        exact = self.events.get(event_name)
        if exact is not None:
            return exact
        matching = [name for name in self.events if name.endswith("*") and event_name.startswith(name[:-1])]
        return self.events[max(matching, key=len)] if matching else None


PROBLEMS = {
    "extra_forbidden": "there is no such name here",
    "missing": "is missing",
    "tuple_type": "must be a list, as [one, another]",
    "model_type": "must be names with values",
}
"""Messages for pydantic errors whose own text is for programmers, by error type."""


def parse_policy(text: str, name: str) -> Policy:
    """Parse a policy. ConfigError names `name` and the line."""
    try:
        node = yaml.compose(text, yaml.SafeLoader)
        _reject_repeated_keys(node)
        file = PolicyFile.model_validate(yaml.safe_load(text))
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConfigError(f"{name}, line {line}: {error.problem}") from None
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(f"{name}, line 1: not YAML, or it refers to itself ({type(error).__name__})") from None
    except ValidationError as error:
        # A misspelt name is both unknown and missing; the unknown one is in the file.
        first = min(error.errors(), key=lambda detail: detail["type"] != "extra_forbidden")
        path = ".".join(str(part) for part in first["loc"] if part != "[key]")
        raise ConfigError(f"{name}, line {_line(node, first['loc'])}: {path or 'policy'}: {_problem(first)}") from None
    content = json.dumps(file.model_dump(mode="json"), ensure_ascii=False)
    return Policy(
        hashlib.sha256(content.encode()).hexdigest()[:12],
        MappingProxyType({str(purpose): file.purposes[purpose] for purpose in file.purposes}),
        frozenset(file.opt_out_regions),
        MappingProxyType(dict(file.events)),
        frozenset(file.anonymous_fields),
        frozenset(name.lower() for name in file.click_ids),
        MappingProxyType({letter: ConsentValue(word) for letter, word in file.gcd_letters.items()}),
        file.controller,
        file.tcf,
        file.memory,
        MappingProxyType({site: group for group, sites in file.memory.site_groups.items() for site in sites}),
        _vocabulary(file),
        file.signals,
    )


def _vocabulary(file: PolicyFile) -> Vocabulary:
    """Build the vocabulary: names under `purposes` hold for every platform, those under `platforms` for one."""
    names: dict[str, Meaning] = {"all": Meaning(frozenset(file.purposes), frozenset(file.purposes))}
    for purpose, rules in file.purposes.items():
        for name in rules.cmp:
            about = names.get(name, Meaning(frozenset(), frozenset()))
            names[name] = Meaning(about.grants | {purpose}, about.denies | {purpose})
    platforms = {
        platform: {name: _meaning(about, frozenset(file.purposes)) for name, about in listed.items()}
        for platform, listed in file.platforms.items()
    }
    return Vocabulary(names, platforms, frozenset(name for name, rules in file.purposes.items() if rules.denied_by_gpc))


def _meaning(about: tuple[str, ...] | PlatformName, purposes: frozenset[str]) -> Meaning:
    if isinstance(about, PlatformName):
        return Meaning(frozenset(about.grants) & purposes, frozenset(about.denies) & purposes)
    return Meaning(frozenset(about) & purposes, frozenset(about) & purposes)


def load_policy(file: Path) -> Policy:
    """Load a policy file. ConfigError."""
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        advice = "Name a readable file by HEADWATER_POLICY, or by --policy where a command has it"
        raise ConfigError(f"no consent policy: {file}: {error.strerror}. {advice}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8") from None
    return parse_policy(text, str(file))


def _problem(error: ErrorDetails) -> str:
    """A validation error in the file's terms."""
    if error["type"] == "string_pattern_mismatch" and error["loc"][0] == "opt_out_regions":
        return f"{error['input']!r} is no ISO 3166 country or part of one, as DE or US-CA"
    if isinstance(error["input"], bool):
        return f"{error['msg']}. YAML reads yes, no, on and off as true and false: quote the text that is meant"
    return PROBLEMS.get(error["type"], error["msg"])


def _reject_repeated_keys(node: yaml.Node | None) -> None:
    """Reject repeated keys: YAML's loader silently keeps the last, which could grant more."""
    if isinstance(node, yaml.MappingNode):
        keys: set[str] = set()
        for key, value in node.value:
            if key.value in keys:
                raise yaml.MarkedYAMLError(
                    problem=f"{key.value!r} stands here for the second time", problem_mark=key.start_mark
                )
            keys.add(key.value)
            _reject_repeated_keys(value)
    elif isinstance(node, yaml.SequenceNode):
        for item in node.value:
            _reject_repeated_keys(item)


def _line(node: Any, location: tuple[int | str, ...]) -> int:
    """The line of the deepest part of `location` that is in the file."""
    line: int = node.start_mark.line + 1 if node is not None else 1
    for part in location:
        if isinstance(node, yaml.MappingNode):
            matching = [(key, value) for key, value in node.value if key.value == str(part)]
            if not matching:
                break
            line, node = matching[0][0].start_mark.line + 1, matching[0][1]
        elif isinstance(node, yaml.SequenceNode) and isinstance(part, int) and part < len(node.value):
            node = node.value[part]
            line = node.start_mark.line + 1
        else:
            break
    return line


__all__ = [
    "BITS",
    "CONSENT_MODE_SIGNALS",
    "PACKAGED",
    "EventRule",
    "MemoryRules",
    "Policy",
    "Purpose",
    "Regime",
    "TcfRules",
    "load_policy",
    "parse_policy",
]
