"""`headwater identity show` and `why`: what is linked to an id, and by which events."""

import json
from datetime import UTC, datetime
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Annotated

import typer

from infra.settings import load_settings
from streams.identity.commands.access import AsJson, linked_names, open_graph
from streams.identity.commands.identifier_args import HELP, nodes_of
from streams.identity.graph.limits import USER
from streams.identity.graph.union_find import ERASED, SHARED
from streams.identity.nodes import alias
from streams.identity.refusals.revocation import MOST_NODES, find_component, find_root
from streams.identity.repair.log import LogIndex, find_link_path, read_log

NAMES = {"0": "user", "1": "device", "2": "cookie", "3": "e-mail or phone"}
"""Tier digit -> kind of identifier."""
STATE_TEXTS = {SHARED: "  shared: nobody's, because several persons had it", ERASED: "  erased"}
"""State of a slot -> text for the terminal."""


def show_command(
    identifier: Annotated[str, typer.Argument(help=HELP)],
    as_json: AsJson = False,
) -> None:
    """Show what is linked to an id: its root, its profile id, and every other node; whether it is shared or erased."""
    with open_graph("looking", quiet=True, settings=load_settings()) as (settings, store, _):
        node = linked_names(store, nodes_of(settings, identifier))[0]
        linked = find_component(store, node)
        root, slot = node, store.read([node])[0]
        state = slot.state if slot is not None else ""
        if slot is not None and state:  # marked: attributes nothing, whatever its root
            profile = alias(settings.master)(node, slot.epoch)
        else:
            root, slot = find_root(store, node, slot)
            profile = slot.parent if root[0] == USER and slot is not None else root
    if as_json:
        shown = {"node": node, "state": state, "root": root, "profile": profile, "nodes": linked.nodes}
        typer.echo(json.dumps({**shown, "whole": linked.whole}))
        return
    typer.echo(f"node     {node}  {NAMES.get(node[0], '')}{STATE_TEXTS.get(state, '')}")
    typer.echo(f"profile  {profile}{'  profile of events that have no other id' if state else ''}")
    if not state and linked.nodes == (node,):
        typer.echo("nothing is linked to it: it always came alone, or never")
    for linked_node in linked.nodes:
        typer.echo(f"linked   {linked_node}  {NAMES.get(linked_node[0], '')}{'  root' if linked_node == root else ''}")
    if not linked.whole:
        typer.echo(f"more than {MOST_NODES:,} nodes, which is no person: the rest is not shown")


def why_command(
    first: Annotated[str, typer.Argument(help="A node, or KIND=VALUE.")],
    second: Annotated[str, typer.Argument(help="Another.")],
    as_json: AsJson = False,
) -> None:
    """Show the chain of evidence that links two ids by the log, with the event of each link; exit 1 without one."""
    with (
        open_graph("reading the log", as_json) as (settings, _, advance),
        TemporaryDirectory() as folder,
        LogIndex(Path(folder)) as index,
    ):
        ends = [nodes_of(settings, identifier) for identifier in (first, second)]
        for records in read_log(settings):
            index.add(records)
            advance(len(records))
        ways = (find_link_path(index, from_node, to_node) for from_node, to_node in product(*ends))
        chain = next((way for way in ways if way is not None), None)
    if as_json:
        links = [
            {"node": link.node, "parent": link.parent, "event_id": link.event_id, "evidence_ts": link.evidence_ts}
            for link in chain or ()
        ]
        typer.echo(json.dumps({"linked": chain is not None, "links": links}))
    elif chain is None:
        typer.echo("nothing in the log links them")
    elif not chain:
        typer.echo("they are the same node")
    for link in () if as_json else chain or ():
        when = datetime.fromtimestamp(link.evidence_ts / 1000, UTC).strftime("%Y-%m-%d %H:%M:%SZ")
        event = f"event {link.event_id}" if link.event_id else "an event that a later record no longer names"
        typer.echo(f"{link.node} -> {link.parent}  by {event}, {when}")
    if chain is None:
        raise typer.Exit(1)


__all__ = ["show_command", "why_command"]
