"""What the names of consent platforms' choices mean under one policy. Pure."""

import re
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import NamedTuple

from streams.consent.formats.signal_names import CMP, SPELLINGS, WHOLE, fold, standard_name

MAX_RESOLVED = 8_192
ACTIVE_GROUPS = frozenset({"onetrustactivegroups", "optanonactivegroups", "activegroups"})
"""Folded names of lists of granted groups, `,C0001,C0003,`; other groups are denied."""
PACKED = frozenset(
    {
        "optanonconsent", "groups", "cookieyesconsent", "cookieconsent", "cookiebot", "klaro", "borlabscookie",
        "axeptiocookies", "cookieyes", "onetrust", "didomi", "usercentrics", "complianz", "iubenda", WHOLE,
    }
)  # fmt: skip
"""Folded names of texts that hold several choices: JSON, a query string, or `name:word,name:word`."""


class Meaning(NamedTuple):
    """Purposes that a yes under a platform's name grants, and purposes that any other value denies."""

    grants: frozenset[str]
    denies: frozenset[str]


OBJECTION = re.compile(
    r"(donot|optout|optedout|limit|restrict|reject|deny|denied|refuse|decline|disable|block|withdraw|revoke|objected|objection).*"
    r"|.*(optout|optedout|rejected|denied|refused|declined|disabled|blocked|withdrawn|revoked|objected)|rdp|ldu|dnt"
)
"""Folded names under which a yes is a refusal."""
SALE = re.compile(r".*(sell|sale|shar|target|profil|adv|ads|personali|limit|restrict|rdp|ldu)")
"""Those about sale, sharing and advertising; the others are about every purpose."""


@lru_cache(8_192)
def is_objection(folded: str) -> bool:
    """Whether a yes under this folded name is a refusal."""
    return OBJECTION.fullmatch(folded.removeprefix(CMP).rpartition(".")[2]) is not None


class Vocabulary:
    """Names of consent platforms' choices under one policy.

    `general`: names that hold for every platform; `platforms`: those of one platform each. Where an event does not name its
    platform, a yes counts for purposes that all platforms with that name mean by it, a no for purposes that any of them means.
    """

    def __init__(
        self, general: Mapping[str, Meaning], platforms: Mapping[str, Mapping[str, Meaning]], objectionable: frozenset[str]
    ) -> None:
        """`objectionable`: purposes that an objection to sale and sharing denies."""
        self._objections = Meaning(frozenset(), objectionable)
        self._general = {fold(name): meaning for name, meaning in general.items()}
        self._platforms = {
            fold(platform): {fold(name): meaning for name, meaning in names.items()} for platform, names in platforms.items()
        }
        self._any: dict[str, Meaning] = {}
        for names in self._platforms.values():
            for name, meaning in names.items():
                if name.isdigit():
                    continue  # numbers mean nothing unless the platform is known
                other = self._any.get(name, meaning)
                self._any[name] = Meaning(meaning.grants & other.grants, meaning.denies | other.denies)
        self._resolved: dict[tuple[str, str], tuple[Meaning | None, bool]] = {}

    def meaning(self, name: str, platform: str = "") -> Meaning | None:
        """The meaning of a folded name without its platform prefix; None where the policy does not map it."""
        general = self._general.get(name)
        other = self._platforms.get(platform, self._any).get(name)
        if general is None or other is None:
            return general or other
        return Meaning(general.grants | other.grants, general.denies | other.denies)

    def objection(self, folded: str) -> Meaning:
        """The purposes that an objection under this name denies."""
        return self._objections if SALE.match(folded) else self._general["all"]

    def groups(self, platform: str) -> Iterable[str]:
        """The folded names of one platform."""
        return self._platforms.get(platform, {})

    def knows(self, name: str, platform: str = "") -> bool:
        """Whether a signal of this name, as sent, has a meaning."""
        folded = fold(name)
        short = folded.removeprefix(CMP).rpartition(".")[2]
        if standard_name(name) is not None or short in ACTIVE_GROUPS or short in PACKED or is_objection(folded):
            return True
        return self._meaning_of(folded, fold(platform)) is not None

    def _meaning_of(self, folded: str, platform: str) -> Meaning | None:
        """By the whole name, then by the part behind its last dot."""
        short = folded.removeprefix(CMP)
        return self.meaning(short, platform) or self.meaning(short.rpartition(".")[2], platform)

    def resolve(self, folded: str, platform: str) -> tuple[Meaning | None, bool]:
        """The meaning of a folded name, and whether it is a part of a signal that has no parts. Cached."""
        resolved = self._resolved.get((folded, platform))
        if resolved is None:
            if len(self._resolved) >= MAX_RESOLVED:
                self._resolved.clear()
            resolved = self._resolved[folded, platform] = self._resolve(folded, platform)
        return resolved

    def _resolve(self, folded: str, platform: str) -> tuple[Meaning | None, bool]:
        meaning = self._meaning_of(folded, platform)
        if meaning is not None:
            return meaning, False
        parent = folded.rpartition(".")[0]
        while parent and parent not in ("cmp", "cm"):
            if parent in SPELLINGS:
                return None, True
            meaning = self.meaning(parent.removeprefix(CMP), platform)
            if meaning is not None:
                return meaning, True
            parent = parent.rpartition(".")[0]
        return None, False


__all__ = ["ACTIVE_GROUPS", "PACKED", "Meaning", "Vocabulary", "is_objection"]
