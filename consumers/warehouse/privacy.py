"""The warehouse's part of a withdrawal.

What was collected while consent stood was lawful and stays. What the gate let through in the seconds before it knew stays
too, and is counted here, so that the audit can say how much that was.
"""

from collections.abc import Mapping
from typing import Any

from consumers.warehouse.store import Store
from streams.consent.policy import BITS


def count_part(store: Store, request: Mapping[str, Any]) -> str:
    """How many rows of these ids were collected after the withdrawal under a purpose that was withdrawn. Retryable."""
    mask = sum(BITS.get(purpose, 0) for purpose in request["purposes"])
    query = (
        f"SELECT count() FROM {store.database}.events WHERE (node IN {{nodes:Array(String)}} "  # noqa: S608 - a name of our own
        "OR profile_id IN {profiles:Array(String)}) AND toUnixTimestamp64Milli(collector_ts) > {since:Int64} "
        "AND bitAnd(consent_purposes, {mask:Int32}) != 0 AND ({site:String} = '' OR site = {site:String})"
    )
    parameters = {
        "nodes": list(request["nodes"]), "profiles": list(request["profiles"]), "since": request["withdrawn_ts"],
        "mask": mask, "site": request["site"],
    }  # fmt: skip
    ((found,),) = store.rows(query, parameters)
    return f"{found} rows were collected between the withdrawal and its arrival at the gate; no further ones are let through"
