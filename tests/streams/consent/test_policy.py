"""Policy files: what is refused, and the line that the message names."""

import pytest

from infra.errors import ConfigError
from streams.consent.policy import PACKAGED, Regime, load_policy, parse_policy

GOOD = PACKAGED.read_text()


def test_revision_is_of_the_content() -> None:
    """Comments and layout do not change the revision; one more opt-out region does."""
    rev = parse_policy(GOOD, "p").rev
    assert parse_policy("# a comment\n" + GOOD, "q").rev == rev
    assert parse_policy(GOOD.replace("[US]", "[US, AU]"), "p").rev != rev


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("on_deny: anonymise", "on_deny: keep", "events.*.on_deny"),
        ("[US]", "[usa]", "opt_out_regions.0"),
        ("purposes:\n  analytics:", "purposes:\n  sales:", "purposes.sales"),
        ("    denied_by_gpc: false", "    denied_by_gpc: false\n    extra: 1", "purposes.analytics.extra"),
        ("[event_name, source", "[identifiers, source", "linkable"),
        ("  l: unknown", "  l: maybe", "gcd_letters.l"),
        ("opt_out_regions:", "opt_out_regions: [DE]\nopt_out_regions:", "second time"),
        ("purposes:", "purposes: [", "line"),
        ("opt_out_regions:", "optout_regions:", "optout_regions: there is no such name here"),
        ("[US]", "[USA]", "'USA' is no ISO 3166 country"),
        ("[US]", "[NO]", "quote the text"),
        ("[US]", "US", "must be a list"),
    ],
)
def test_errors_name_file_and_line(old: str, new: str, says: str) -> None:
    """Every mistake is refused, with the file, a line and the place in words."""
    with pytest.raises(ConfigError) as caught:
        parse_policy(GOOD.replace(old, new, 1), "mine.yaml")
    assert str(caught.value).startswith("mine.yaml, line ")
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("region", "regime"),
    [
        ("US", Regime.OPT_OUT), ("US-CA", Regime.OPT_OUT), ("us-ca", Regime.OPT_OUT), ("AU", Regime.OPT_OUT),
        ("CA-QC", Regime.OPT_OUT),
        ("DE", Regime.OPT_IN), ("CA", Regime.OPT_IN), ("CA-ON", Regime.OPT_IN), ("", Regime.OPT_IN),
        ("USA", Regime.OPT_IN), ("AUSTRIA", Regime.OPT_IN), ("US-", Regime.OPT_IN), ("US-CALIFORNIA", Regime.OPT_IN),
    ],
)  # fmt: skip
def test_only_a_region_that_is_listed_is_opt_out(region: str, regime: Regime) -> None:
    """A country counts for its parts, and not for longer words that begin like it."""
    assert parse_policy(GOOD.replace("[US]", "[US, AU, CA-QC]"), "p").regime(region) is regime


def test_the_line_is_the_mistakes_own() -> None:
    """The message names the line of the wrong word."""
    broken = GOOD.replace("on_deny: anonymise", "on_deny: keep")
    line = 1 + next(at for at, text in enumerate(broken.splitlines()) if "on_deny: keep" in text)
    with pytest.raises(ConfigError, match=f"line {line}:"):
        parse_policy(broken, "p")


@pytest.mark.parametrize("text", ["", "just words", "[1, 2]", "purposes: {}", "\x00", "a: &a [*a]"])
def test_what_is_no_policy(text: str) -> None:
    """Nothing, a list, binary rubbish: refused as configuration errors, never anything else."""
    with pytest.raises(ConfigError):
        parse_policy(text, "p")


def test_a_missing_file_says_what_to_do() -> None:
    """A policy that is not there is an error that names the variable."""
    with pytest.raises(ConfigError, match="HEADWATER_POLICY"):
        load_policy(PACKAGED.with_name("absent.yaml"))
