"""Decodes the US sections of GPP (7 to 27) by one table of layouts. Pure.

Source: IAB Tech Lab, "Global Privacy Platform", "Sections": the US National and US State technical specifications. Fields are
two bits wide: 0 does not apply, 1 yes, 2 no; of consents 1 is "no consent". Sections 24 to 27 begin with the version of the
Multi-State Privacy Agreement, and that is what the official library writes; the specification's draft puts a header with
the section's id in front of it, which is refused as a version that is not known.
"""

from collections.abc import Mapping
from enum import Enum
from typing import NamedTuple

from streams.consent.formats.consent_value import ConsentValue
from streams.consent.formats.gpp.bits import PADDING_BITS, UnreadableSection, check_segment_end
from streams.consent.formats.tc_string import Segment

YES, NO = 1, 2
GPC_SEGMENT = 1
"""Type of the sub-section of Global Privacy Control."""
SENSITIVE_SHIFTS = tuple(range(14, -1, -2))
"""The eight consents of the sub-section for sensitive data."""


class Role(Enum):
    """What a field is about, as far as it is evaluated."""

    NOTICE = "notice"
    """Whether the visitor was told of the processing, and of the right to opt out of sale, sharing or targeted advertising."""
    SENSITIVE_NOTICE = "sensitive notice"
    OPT_OUT = "opt-out"
    """Of sale, sharing or targeted advertising."""
    SENSITIVE = "sensitive"
    CHILDREN = "children"
    PERSONAL = "personal"
    """Consent to processing beyond the disclosed purposes."""
    MSPA = "mspa"


class SubSection(Enum):
    """The sub-section that may follow a section's core."""

    NOTHING = "nothing"
    GPC = "gpc"
    SENSITIVE = "sensitive"
    """Eight consents to process sensitive data, without a type in front of them."""


ROLES: Mapping[str, Role] = {
    "SharingNotice": Role.NOTICE,
    "ProcessingNotice": Role.NOTICE,
    "SaleOptOutNotice": Role.NOTICE,
    "SharingOptOutNotice": Role.NOTICE,
    "TargetedAdvertisingOptOutNotice": Role.NOTICE,
    "SensitiveDataProcessingOptOutNotice": Role.SENSITIVE_NOTICE,
    "SensitiveDataOptOutNotice": Role.SENSITIVE_NOTICE,
    "SensitiveDataLimitUseNotice": Role.SENSITIVE_NOTICE,
    "SaleOptOut": Role.OPT_OUT,
    "SharingOptOut": Role.OPT_OUT,
    "TargetedAdvertisingOptOut": Role.OPT_OUT,
    "SensitiveDataProcessing": Role.SENSITIVE,
    "KnownChildSensitiveDataConsents": Role.CHILDREN,
    "PersonalDataConsents": Role.PERSONAL,
    "AdditionalDataProcessingConsent": Role.PERSONAL,
    "MspaCoveredTransaction": Role.MSPA,
    "MspaOptOutOptionMode": Role.MSPA,
    "MspaServiceProviderMode": Role.MSPA,
    "MspaMode": Role.MSPA,
}


class Layout(NamedTuple):
    """One layout of one version of a section, behind the six bits of its version."""

    name: str
    version: int
    fields: tuple[tuple[str, int], ...]
    """(field, number of its two-bit values), in order."""
    sub_section: SubSection
    width: int
    """Bits of the core, its version included."""
    shifts: Mapping[Role, tuple[int, ...]]
    """Where the values of each role stand, counted from the core's last bit."""


VERSION_BITS = 6


def _layout(name: str, version: int, text: str, sub_section: SubSection = SubSection.NOTHING) -> Layout:
    """`text`: field names in order, `name*n` for a field of n values."""
    parts = [field.partition("*") for field in text.split()]
    fields = tuple((field, int(count or 1)) for field, _, count in parts)
    roles = [ROLES[field] for field, count in fields for _ in range(count)]
    shifts = {role: tuple(2 * (len(roles) - 1 - at) for at, other in enumerate(roles) if other is role) for role in roles}
    return Layout(name, version, fields, sub_section, VERSION_BITS + 2 * len(roles), shifts)


_MSPA = "MspaCoveredTransaction MspaOptOutOptionMode MspaServiceProviderMode"
_OPT_OUTS = "SaleOptOut TargetedAdvertisingOptOut"
_TOLD = f"SaleOptOutNotice TargetedAdvertisingOptOutNotice {_OPT_OUTS}"
_SENSITIVE, _CHILDREN, _MORE = "SensitiveDataProcessing", "KnownChildSensitiveDataConsents", "AdditionalDataProcessingConsent"
_NATIONAL = (
    "SharingNotice SaleOptOutNotice SharingOptOutNotice TargetedAdvertisingOptOutNotice SensitiveDataProcessingOptOutNotice "
    "SensitiveDataLimitUseNotice SaleOptOut SharingOptOut TargetedAdvertisingOptOut "
)
_SHORT_NATIONAL = f"{_NATIONAL} {_SENSITIVE}*12 {_CHILDREN}*2 PersonalDataConsents {_MSPA}"
_LONG_NATIONAL = f"{_NATIONAL} {_SENSITIVE}*16 {_CHILDREN}*3 PersonalDataConsents {_MSPA}"
_CALIFORNIA = "SaleOptOutNotice SharingOptOutNotice SensitiveDataLimitUseNotice SaleOptOut SharingOptOut"
_UTAH = f"SharingNotice SaleOptOutNotice TargetedAdvertisingOptOutNotice SensitiveDataProcessingOptOutNotice {_OPT_OUTS}"
_IOWA = f"ProcessingNotice SaleOptOutNotice TargetedAdvertisingOptOutNotice SensitiveDataOptOutNotice {_OPT_OUTS}"
_MSPA_FIRST = f"MspaCoveredTransaction MspaMode ProcessingNotice {_TOLD}"
_GPC = SubSection.GPC

LAYOUTS: Mapping[int, tuple[Layout, ...]] = {
    # Version 1 is met in both lengths: for some releases the official library wrote the longer one under the old version.
    7: (
        _layout("usnat", 1, _SHORT_NATIONAL, _GPC),
        _layout("usnat", 1, _LONG_NATIONAL, _GPC),
        _layout("usnat", 2, _LONG_NATIONAL, _GPC),
    ),
    8: (_layout("usca", 1, f"{_CALIFORNIA} {_SENSITIVE}*9 {_CHILDREN}*2 PersonalDataConsents {_MSPA}", _GPC),),
    9: (_layout("usva", 1, f"SharingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN} {_MSPA}"),),
    10: (_layout("usco", 1, f"SharingNotice {_TOLD} {_SENSITIVE}*7 {_CHILDREN} {_MSPA}", _GPC),),
    11: (_layout("usut", 1, f"{_UTAH} {_SENSITIVE}*8 {_CHILDREN} {_MSPA}"),),
    12: (_layout("usct", 1, f"SharingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN}*3 {_MSPA}", _GPC),),
    13: (_layout("usfl", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN}*3 {_MORE} {_MSPA}"),),
    14: (_layout("usmt", 1, f"SharingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN}*3 {_MORE} {_MSPA}", _GPC),),
    15: (_layout("usor", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*11 {_CHILDREN}*3 {_MORE} {_MSPA}", _GPC),),
    16: (_layout("ustx", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN} {_MORE} {_MSPA}", _GPC),),
    17: (_layout("usde", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*9 {_CHILDREN}*5 {_MORE} {_MSPA}", _GPC),),
    18: (_layout("usia", 1, f"{_IOWA} {_SENSITIVE}*8 {_CHILDREN} {_MSPA}", _GPC),),
    19: (_layout("usne", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN} {_MORE} {_MSPA}", _GPC),),
    20: (_layout("usnh", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN}*3 {_MORE} {_MSPA}", _GPC),),
    21: (_layout("usnj", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*10 {_CHILDREN}*5 {_MORE} {_MSPA}", _GPC),),
    22: (_layout("ustn", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN} {_MORE} {_MSPA}", _GPC),),
    23: (_layout("usmn", 1, f"ProcessingNotice {_TOLD} {_SENSITIVE}*8 {_CHILDREN} {_MORE} {_MSPA}", _GPC),),
    24: (_layout("usmd", 1, f"{_MSPA_FIRST} {_MORE}", _GPC),),
    25: (_layout("usin", 1, f"{_MSPA_FIRST} {_CHILDREN} {_MORE}", SubSection.SENSITIVE),),
    26: (_layout("usky", 1, f"{_MSPA_FIRST} {_CHILDREN} {_MORE}", SubSection.SENSITIVE),),
    27: (_layout("usri", 1, f"{_MSPA_FIRST} {_CHILDREN} {_MORE}", SubSection.SENSITIVE),),
}  # fmt: skip
"""Section id -> its layouts; those of one version differ in length, so that one of them fits."""


class UsSection(NamedTuple):
    """The values of a US section. Fields of two bits: 0 does not apply, 1 yes, 2 no."""

    id: int
    version: int
    """Of the section; of the Multi-State Privacy Agreement in sections 24 to 27."""
    notices: tuple[int, ...]
    """Of processing, and of the right to opt out of sale, sharing and targeted advertising, as far as the section has them.
    2 = was not given."""
    opt_outs: tuple[int, ...]
    """Of sale, sharing and targeted advertising. 1 = opted out."""
    sensitive: tuple[int, ...]
    children: tuple[int, ...]
    """Consents for known children. 1 = no consent."""
    personal: int
    """Consent to processing beyond the disclosed purposes. 1 = no consent; 0 where the section has no such field."""
    mspa: tuple[int, ...]
    """Covered transaction, then opt-out option mode and service provider mode, or the mode in one field."""
    gpc: bool | None
    """Global Privacy Control; None without that sub-section."""


def read_us_section(section_id: int, text: str) -> UsSection:
    """Decode the section of this id. UnreadableSection, or InvalidTcString for broken bits."""
    core, *others = text.split(".")
    segment = Segment(core.encode())
    width = segment.unread()
    version = segment.number(VERSION_BITS)
    for layout in LAYOUTS[section_id]:
        if layout.version == version and 0 <= width - layout.width < PADDING_BITS:
            return _read(section_id, layout, segment, others)
    raise UnreadableSection("unknown version or length")


def _read(section_id: int, layout: Layout, segment: Segment, others: list[str]) -> UsSection:
    bits = segment.number(layout.width - VERSION_BITS)
    check_segment_end(segment)
    values = {role: _values(bits, shifts) for role, shifts in layout.shifts.items()}
    gpc, sensitive = _read_sub_section(layout.sub_section, others)
    return UsSection(
        section_id, layout.version, values[Role.NOTICE], values[Role.OPT_OUT], values.get(Role.SENSITIVE, sensitive),
        values.get(Role.CHILDREN, ()), values.get(Role.PERSONAL, (0,))[0], values[Role.MSPA], gpc,
    )  # fmt: skip


def _values(bits: int, shifts: tuple[int, ...]) -> tuple[int, ...]:
    values = tuple([bits >> shift & 3 for shift in shifts])
    if 3 in values:
        raise UnreadableSection("a value that does not exist")
    return values


def _read_sub_section(kind: SubSection, segments: list[str]) -> tuple[bool | None, tuple[int, ...]]:
    """Read the sub-section behind the core: (GPC, consents to sensitive data)."""
    if not segments:
        return None, ()
    if len(segments) > 1 or kind is SubSection.NOTHING:
        raise UnreadableSection("a sub-section that the layout does not have")
    segment = Segment(segments[0].encode())
    if kind is SubSection.SENSITIVE:
        sensitive = _values(segment.number(2 * len(SENSITIVE_SHIFTS)), SENSITIVE_SHIFTS)
        check_segment_end(segment)
        return None, sensitive
    if segment.number(2) != GPC_SEGMENT:
        raise UnreadableSection("unknown sub-section")
    gpc = bool(segment.number(1))
    check_segment_end(segment)
    return gpc, ()


def evaluate_us_section(section: UsSection) -> ConsentValue:
    """Whether a section allows sale, sharing and targeted advertising.

    An opt-out, a missing notice, a child or further use without consent, or GPC denies. Sensitive data is not evaluated.
    """
    if section.gpc or YES in section.opt_outs:
        return ConsentValue.DENY
    if NO in section.notices:
        return ConsentValue.DENY  # a right without notice cannot have been waived
    if YES in section.children or section.personal == YES:
        return ConsentValue.DENY
    return ConsentValue.GRANT if NO in section.opt_outs else ConsentValue.UNKNOWN


__all__ = ["LAYOUTS", "ROLES", "Layout", "Role", "UsSection", "evaluate_us_section", "read_us_section"]
