"""`headwater demo`: starts all services, simulates a day of traffic, and reconciles it. `make demo` runs this."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Annotated

import typer

from infra.ops.embedded.app import ops_page_address, print_line, run_stack
from infra.ops.embedded.servers.child import HEADWATER, Child, Program
from infra.ops.embedded.stack import EmbeddedStack, StackOptions

app = typer.Typer(add_completion=False, rich_markup_mode=None)


class DemoEnd(Exception):
    """The demo has ended with the exit code of `reconcile`, or of the step that failed."""

    def __init__(self, code: int) -> None:
        super().__init__(code)
        self.code = code


def standard_output() -> IO[bytes]:
    """Return the stream for the output of the demo's commands."""
    return sys.stdout.buffer


def run_command(stack: EmbeddedStack, name: str, words: Sequence[str]) -> int:
    """Run a `headwater` command while the supervisor keeps ticking; return its exit code."""
    environment = {**stack.environment, "PYTHONUNBUFFERED": "1"}
    child = Child(Program(name, [*HEADWATER, *words], stack.state.log(name), environment), output=standard_output())
    try:
        stack.supervisor.run_until(lambda: child.exit_code() is not None)
        return child.stop()
    finally:
        child.kill()


def run_demo(stack: EmbeddedStack, events: int, rate: int, seed: int) -> int:
    """Simulate, reconcile, print a summary; return the exit code of the first step that fails."""
    ledger = stack.state.path / "demo-ledger.jsonl"
    began = time.monotonic()
    print_line("simulate", f"{events} events over the real doors, seed {seed}")
    words = ["simulate", "--events", str(events), "--rate", str(rate), "--seed", str(seed), "--ledger", str(ledger)]
    code = run_command(stack, "simulate", words)
    if code:
        print_line("simulate", f"failed with exit code {code}")
        return code
    print_line("reconcile", "comparing every layer with the ledger")
    code = run_command(stack, "reconcile", ["reconcile", "--ledger", str(ledger)])
    passed = "passed: nothing lost, nothing doubled, nothing forbidden" if code == 0 else f"FAILED (exit code {code})"
    print_line("demo", f"{passed}, in {time.monotonic() - began:.0f} s")
    print_line("ops page", ops_page_address(stack))
    print_line("logs", str(stack.state.path / "logs"))
    return code


@app.command(epilog="Example: headwater demo --events 50000")
def demo(
    events: Annotated[int, typer.Option(min=1, help="How many events to simulate.")] = 50_000,
    rate: Annotated[int, typer.Option(min=0, help="Events a second; 0 = as fast as the house takes them.")] = 1_000,
    seed: Annotated[int, typer.Option(help="The same seed makes the same visitors.")] = 1,
    state_dir: Annotated[Path, typer.Option(envvar="HEADWATER_STATE_DIR", help="The house's folder.")] = Path(".headwater"),
    consent_workers: Annotated[int, typer.Option(min=1, max=32, help="Workers of the consent stage.")] = 1,
) -> None:
    """Start the house, simulate traffic, reconcile the ledger.

    On a terminal the house then stays up until Ctrl-C; elsewhere it stops with reconcile's exit code.
    """

    def ready(stack: EmbeddedStack) -> None:
        code = run_demo(stack, events, rate, seed)
        if not sys.stdin.isatty():
            print_line("house", "stops, because nobody is at a terminal; `headwater up` starts it again")
            raise DemoEnd(code)
        print_line("house", "stays up; Ctrl-C stops it")
        stack.supervisor.run_until(lambda: False)

    try:
        run_stack(StackOptions(state_dir, consent_workers=consent_workers), print_line, ready)
    except DemoEnd as verdict:
        raise typer.Exit(verdict.code) from None
    except KeyboardInterrupt:
        print_line("house", "stopped")
