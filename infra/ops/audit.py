"""Checks the locked packages for known vulnerabilities. Passes with a notice where the advisory service is unreachable.

Run by `make check`: python infra/ops/audit.py requirements.lock
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

TIMEOUT_S = 120


def verdict(report: dict[str, Any]) -> tuple[bool, str]:
    """Return whether the check passes and its message, for one pip-audit report in JSON."""
    packages = report["dependencies"]
    findings = [
        f"{package['name']} {package['version']}: {flaw['id']}, fixed in {', '.join(flaw['fix_versions']) or '-'}"
        for package in packages
        for flaw in package.get("vulns", ())
    ]
    if findings:
        return False, "\n".join(findings)
    skipped = sum("skip_reason" in package for package in packages)
    if skipped == len(packages):
        return True, "not audited: the advisory service cannot be reached from here"
    return True, f"{len(packages) - skipped} packages audited, {skipped} unknown to the advisory service, no finding"


def main() -> int:
    """Run pip-audit; return exit code 1 on a finding."""
    pip_audit = Path(sys.executable).with_name("pip-audit")
    command = [str(pip_audit), "--disable-pip", "--require-hashes", "-r", sys.argv[1], "-f", "json"]
    try:
        audit = subprocess.run(  # noqa: S603 - our own command line
            [*command, "--progress-spinner", "off", "--timeout", "5"],
            capture_output=True,
            text=True,
            timeout=TIMEOUT_S,
            check=False,
        )
        passes, text = verdict(json.loads(audit.stdout))
    except (subprocess.TimeoutExpired, json.JSONDecodeError):
        passes, text = True, "not audited: the advisory service cannot be reached from here"
    sys.stdout.write(text + "\n")
    return 0 if passes else 1


if __name__ == "__main__":
    sys.exit(main())
