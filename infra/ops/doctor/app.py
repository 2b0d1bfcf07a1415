"""`headwater doctor`: runs the checks and prints their results, with advice for each problem."""

import json
from typing import Annotated

import typer

from infra.ops.doctor.check_result import CheckResult, Grade
from infra.ops.doctor.installation import INSTALLATION_CHECKS
from infra.ops.doctor.machine import MACHINE_CHECKS
from infra.ops.doctor.services import check_house
from infra.settings import Settings, load_settings

app = typer.Typer(add_completion=False, rich_markup_mode=None)


def run_checks(settings: Settings) -> list[CheckResult]:
    """Run every check, in the order in which a start depends on them."""
    results = [check() for check in MACHINE_CHECKS]
    results += [check(settings) for check in INSTALLATION_CHECKS]
    return [*results, *check_house(settings)]


@app.command(epilog="Example: headwater doctor --json")
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False) -> None:
    """Check this machine and this installation, and say what to do. Exits 1 when something cannot work."""
    findings = run_checks(load_settings())
    if as_json:
        typer.echo(json.dumps([finding.to_json() for finding in findings], indent=2))
    else:
        width = max(len(finding.check) for finding in findings)
        for finding in findings:
            typer.secho(f"{finding.grade:<5}", fg={"OK": "green", "WARN": "yellow", "FAIL": "red"}[finding.grade], nl=False)
            typer.echo(f"{finding.check:<{width}}  {finding.detail}")
            if finding.advice:
                typer.echo(f"{'':<{width + 7}}-> {finding.advice}")
    if any(finding.grade is Grade.FAIL for finding in findings):
        raise typer.Exit(1)
