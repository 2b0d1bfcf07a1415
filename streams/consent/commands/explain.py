"""`headwater consent explain`: what the policy does with an event, purpose by purpose and field by field."""

import json
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.table import Table

from infra.errors import ConfigError
from infra.parsing.region import region_of
from infra.secrets import Secret
from infra.settings import load_settings
from schemas.codec import Record, encode
from schemas.registry import Contract, Registry
from streams.collector.event import InvalidItem
from streams.collector.fields.repeated_keys import loads
from streams.collector.normalise import Normaliser, RequestContext
from streams.collector.protocols import own
from streams.consent import messages
from streams.consent.commands.gvl import app as gvl_app
from streams.consent.commands.simulate import simulate_command
from streams.consent.commands.verify import verify_command
from streams.consent.decision.decide import Action, ConsentDecision, decide, exempt
from streams.consent.formats.evidence import SignalReader
from streams.consent.formats.gvl import GvlFolder
from streams.consent.formats.reason import ConsentReason
from streams.consent.policy import PACKAGED, Policy, Regime, load_policy
from streams.consent.redaction.click_ids import ClickIds
from streams.consent.redaction.fast import HOURS
from streams.consent.redaction.reference import ContractShape, anonymise, strip
from streams.identity.nodes import NodeKeys

NEW_ID = "(a new random id)"

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    help="Explain what the consent policy does with an event, or with recorded ones; vendor lists; verify the audit.",
    rich_markup_mode=None,
)

COMPUTED = frozenset({"collector_ts", "event_ts_source", "heartbeat", "identifiers", "ip_prefix", "signals"})
"""Fields of `events.raw` that no sender writes: they tell a record from a body."""


app.add_typer(gvl_app, name="gvl")
app.command("simulate", epilog="Example: headwater consent simulate --policy new.yaml --hours 6")(simulate_command)
app.command("verify-audit", epilog="Example: headwater consent verify-audit --json")(verify_command)


@app.callback(epilog="Example: headwater consent explain event.json --region DE")
def consent() -> None:
    """Explain what the consent policy does with an event, or with recorded ones; vendor lists; verify the audit."""


@dataclass(frozen=True)
class Explanation:
    """What one policy does with one event."""

    policy: Policy
    regime: Regime
    decision: ConsentDecision
    words: dict[str, dict[str, str]]
    """Purpose -> format -> value; formats that say nothing are left out."""
    fields: list[tuple[str, str, str]]
    """(field, purpose, what happens to it) for each field that is not empty."""
    unread: list[str]
    """Names of its signals that the policy does not map."""


def explain(policy: Policy, shape: ContractShape, record: Record, lists: GvlFolder | None = None) -> Explanation:
    """What the stage does with `record`, of a subject without a stored state. `lists`: imported vendor lists."""
    evidence = SignalReader(policy, lists).read(record["region"], record["signals"], record["collector_ts"])
    decision = exempt(policy) if record["heartbeat"] else decide(policy, record["event_name"], evidence)
    words = {
        name: {format_name: result.value.value for format_name, result in formats.items()}
        for name, formats in evidence.results.items()
    }
    redacted = _redact(policy, shape, record, decision)
    fields = [
        (name, shape.purposes[name], _fate(name, record[name], redacted[name] if redacted else None))
        for name in record
        if record[name] != shape.empty[name]
    ]
    unread = sorted(evidence.unmapped)
    return Explanation(policy, evidence.regime, decision, words, fields, unread)


def _redact(policy: Policy, shape: ContractShape, record: Record, decision: ConsentDecision) -> Record | None:
    if decision.action is Action.DROP:
        return None
    if decision.action is Action.ANONYMISE:
        return anonymise(record, shape, policy, NEW_ID)
    if decision.action is Action.PASS and not record["heartbeat"]:
        return record
    return strip(record, shape, policy, decision.mask, ClickIds(policy.click_ids))


def _fate(name: str, before: Any, after: Any) -> str:
    if before == after:
        return "kept"
    if not after:
        return "removed"
    if name in HOURS:
        return f"becomes {datetime.fromtimestamp(after / 1000, UTC):%Y-%m-%d %H:%M} UTC"
    return f"becomes {after if after == NEW_ID else json.dumps(after, ensure_ascii=False)}"


def read_event(file: Path, registry: Registry, region: str = "") -> Record:
    """Read an event from JSON: a body of `/v1/events`, or fields of `events.raw`. ConfigError."""
    contract = registry.latest("events.raw")
    try:
        fields = loads(file.read_text(encoding="utf-8").encode())
    except OSError as error:
        raise ConfigError(f"{file}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{file}: not UTF-8") from None
    except json.JSONDecodeError as error:
        raise ConfigError(f"{file}, line {error.lineno}: {error.msg}") from None
    if not isinstance(fields, dict):
        raise ConfigError(f"{file}: an event is a JSON object")
    if "consent" in fields or COMPUTED.isdisjoint(fields):
        return _collected(file, fields, contract, region)
    if region:
        fields["region"] = region
    unknown = sorted(set(fields) - set(contract.names))
    if unknown:
        raise ConfigError(f"{file}: {contract.topic} has no field {', '.join(unknown)}; it has {', '.join(contract.names)}")
    record: Record = {**ContractShape(contract).blank(), **fields}
    try:
        encode(contract, record)
    except ValueError as error:
        raise ConfigError(f"{file}: {error}") from None
    return record


def _collected(file: Path, fields: Any, contract: Contract, region: str) -> Record:
    """The record that the collector makes of a body. Its pseudonyms have a made-up key: they are not shown."""
    event = own.parse_item(fields)
    if isinstance(event, InvalidItem):
        raise ConfigError(f"{file}: {event.detail}")
    normaliser = Normaliser(contract, NodeKeys.derive(Secret("of pseudonyms that nobody gets to see, and nothing links")))
    request = RequestContext("", "", int(time.time() * 1_000), region or None)  # without a region, the event's own counts
    return normaliser.build_record(event, request, lambda _name: None)[1]


@app.command("explain", epilog="Example: headwater consent explain event.json --policy policy.yaml")
def explain_command(
    event: Annotated[Path, typer.Argument(help="An event as JSON: as sent to /v1/events, or fields of events.raw.")],
    region: Annotated[str, typer.Option(help="Where the visitor is, as DE or US-CA; unknown counts as opt-in.")] = "",
    policy: Annotated[Path | None, typer.Option(help="Policy file; else the one in force here.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Say what is decided on an event for each purpose, why, and what happens to each of its fields."""
    if region and not region_of(region):
        raise ConfigError(f"--region {region}: a region is an ISO 3166 country or a part of one, as DE or US-CA")
    settings = load_settings()
    registry = Registry(settings.contracts)
    explanation = explain(
        load_policy(policy or settings.policy or PACKAGED),
        ContractShape(registry.latest("events.raw")),
        read_event(event, registry, region_of(region)),
        GvlFolder(settings.gvl_dir),
    )
    if as_json:
        typer.echo(json.dumps(as_data(explanation), ensure_ascii=False, indent=2))
    else:
        _print(explanation)


def as_data(explanation: Explanation) -> dict[str, Any]:
    """The explanation as JSON."""
    decision = explanation.decision
    return {
        "policy": explanation.policy.rev,
        "regime": explanation.regime.value,
        "outcome": decision.action.value,
        "drop_reason": decision.drop_reason,
        "purposes": [
            {"purpose": r.purpose, "granted": r.granted, "reason": r.reason, "said": explanation.words[r.purpose]}
            for r in decision.rulings
        ],
        "unread": explanation.unread,
        "fields": [{"field": name, "purpose": purpose, "becomes": fate} for name, purpose, fate in explanation.fields],
    }


def _print(explanation: Explanation) -> None:
    console, decision = Console(), explanation.decision
    console.print(messages.describe_action(decision), f"({decision.action})", highlight=False, markup=False)
    console.print(
        messages.describe_default(explanation.regime), f"Policy {explanation.policy.rev}.", highlight=False, markup=False
    )
    purposes = Table("purpose", "granted", "because", "the event's signals", "reason")
    for ruling in decision.rulings:
        words = messages.REASONS[ruling.reason], messages.describe_values(explanation.words[ruling.purpose])
        purposes.add_row(ruling.purpose, "yes" if ruling.granted else "no", *words, ruling.reason.value)
    console.print(purposes)
    if explanation.unread:
        names = ", ".join(explanation.unread)
        advice = (
            "nothing in the policy maps such a name. A no under it denies what no other signal speaks about, a yes grants "
            "nothing. See streams/consent/PLATFORMS.md."
        )
        console.print(f"Not read: {names}: {advice}", highlight=False, markup=False)
    fields = Table("field", "purpose", "what happens to it")
    for row in explanation.fields:
        fields.add_row(*row)
    console.print(fields, markup=False)
    if not decision.rulings or any(ruling.reason is ConsentReason.OK_EXEMPT for ruling in decision.rulings):
        return
    console.print("What is remembered of the visitor (an earlier choice, a withdrawal) is not looked up here.", highlight=False)
