"""Builds TC strings bit by bit."""


def bits(segment: str) -> str:
    """A segment as zeros and ones."""
    return "".join(f"{ALPHABET.index(character):06b}" for character in segment)


ALPHABET = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"


def text(*segments: str) -> str:
    """Zeros and ones as a string; parts are joined by dots."""
    return ".".join(
        "".join(ALPHABET[int(part[at : at + 6].ljust(6, "0"), 2)] for at in range(0, len(part), 6)) for part in segments
    )


def core(**replaced: str) -> str:
    """A small valid core segment as zeros and ones, with some of its fields replaced."""
    fields = {
        "version": f"{2:06b}", "created": f"{17_000_000_000:036b}", "updated": f"{17_000_000_000:036b}", "cmp": f"{7:012b}",
        "cmp_version": f"{1:012b}", "screen": "0" * 6, "language": "0" * 12, "gvl": f"{9:012b}", "policy": f"{5:06b}",
        "specific": "1", "texts": "0", "features": "0" * 12, "consent": "1" * 24, "li": "0" * 24, "one": "0",
        "country": "0" * 12, "vendors": f"{30:016b}0" + "1" * 30, "vendors_li": f"{0:016b}0", "restrictions": "0" * 12,
        "rest": "",
    }  # fmt: skip
    return "".join({**fields, **replaced}.values())


def ranges(*pairs: tuple[int, int]) -> str:
    """A list of ranges as zeros and ones."""
    return f"{len(pairs):012b}" + "".join(
        f"0{first:016b}" if first == last else f"1{first:016b}{last:016b}" for first, last in pairs
    )


def tc_string(consent: str = "1" * 24, updated_ms: int = 1_700_000_000_000, **replaced: str) -> str:
    """A valid string with these purposes, of this day."""
    disclosed = f"{1:03b}{30:016b}0" + "1" * 30
    return text(core(consent=consent.ljust(24, "0"), updated=f"{updated_ms // 100:036b}", **replaced), disclosed)
