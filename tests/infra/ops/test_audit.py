"""What `make check` says about known vulnerabilities."""

from infra.ops.audit import verdict

CLEAN = {"name": "a", "version": "1", "vulns": []}
FOUND = {"name": "b", "version": "2", "vulns": [{"id": "CVE-1", "fix_versions": ["3"]}]}
UNKNOWN = {"name": "c", "skip_reason": "not found"}


def test_a_finding_fails() -> None:
    """Package, advisory and the version that fixes it."""
    assert verdict({"dependencies": [CLEAN, FOUND]}) == (False, "b 2: CVE-1, fixed in 3")


def test_nobody_to_ask_is_said_and_does_not_fail() -> None:
    """Where nothing could be audited, the check does not claim that all is well."""
    passes, text = verdict({"dependencies": [UNKNOWN, UNKNOWN]})
    assert passes
    assert text.startswith("not audited")


def test_no_finding_counts_what_was_looked_at() -> None:
    """Packages that the service does not know are named as such."""
    assert verdict({"dependencies": [CLEAN, UNKNOWN]})[1] == "1 packages audited, 1 unknown to the advisory service, no finding"
