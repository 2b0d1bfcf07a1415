"""The view of products has one row each, with numbers where senders gave numbers."""

from consumers.warehouse.loader.container import Container
from consumers.warehouse.schema.migrating import migrate
from consumers.warehouse.schema.tables import TABLES
from consumers.warehouse.topic_partition import TopicPartition
from infra.settings import PACKAGED_CONTRACTS
from schemas.registry import Registry
from tests.consumers.warehouse.merge_history import History, node
from tests.consumers.warehouse.plant import event

CONTRACT = Registry(PACKAGED_CONTRACTS).latest("events.resolved")
ITEMS = [
    {"item_id": "sku-1", "item_name": "Lamp", "brand": "Lux", "category": "light", "price": "19.9", "quantity": "2"},
    {"item_id": "sku-2", "price": "5", "coupon": "SPRING"},
    {"item_id": "sku-3", "price": "five", "quantity": "1"},
    {"item_id": "sku-4", "price": "nan", "quantity": "inf"},
    {},
]


def test_each_product_is_a_row_with_its_revenue(history: History) -> None:
    """Events without products have none; what is not a number is NULL, and a missing quantity is one."""
    later = node(2, 1)
    values = [
        event(CONTRACT, 1, items=ITEMS, event_name="purchase", order_id="o-1", currency="EUR", profile_id=node(2, 7)),
        event(CONTRACT, 2),
        event(CONTRACT, 3, items=ITEMS[:1], event_name="refund"),
    ]
    table, container = TABLES["events.resolved"], Container(CONTRACT)
    history.store.insert(
        table, container.columns, container.pack(TopicPartition(table.topic, 0, "an-id"), 0, enumerate(values)), "token"
    )
    overrides = f"('{node(2, 7)}', '{later}', 1)"
    history.store.command(f"INSERT INTO headwater.identity_overrides (profile_id, canonical, version) VALUES {overrides}")
    rows = history.store.rows(
        "SELECT item_id, item_name, brand, category, price, quantity, revenue FROM headwater.order_items "
        "WHERE event_name = 'purchase' ORDER BY item_id"
    )
    assert [tuple(row) for row in rows] == [
        ("", "", "", "", None, 1, None),
        ("sku-1", "Lamp", "Lux", "light", 19.9, 2, 39.8),
        ("sku-2", "", "", "", 5, 1, 5),
        ("sku-3", "", "", "", None, 1, None),
        ("sku-4", "", "", "", None, None, None),
    ]
    facts = "SELECT event_id, event_name, site, order_id, currency, profile_id, profile_now, count() FROM headwater.order_items"
    assert {tuple(row) for row in history.store.rows(f"{facts} GROUP BY ALL")} == {
        ("event-1", "purchase", "text", "o-1", "EUR", node(2, 7), later, 5),
        ("event-3", "refund", "text", "", "", "text", "text", 1),
    }


def test_a_table_of_an_older_contract_gets_the_columns(history: History) -> None:
    """Migration adds what a table lacks with its type, and rows from before have no products."""
    names = ("items", "user_properties", "problems", "session_id", "imported")
    history.store.command("DROP VIEW headwater.order_items")
    history.store.command("DROP VIEW headwater.events_now")
    history.stamp(node(2, 1))
    history.store.command(f"ALTER TABLE headwater.events {', '.join(f'DROP COLUMN {name}' for name in names)}")
    assert f"added {len(names)} columns to events" in migrate(history.settings)
    listed = ", ".join(f"'{name}'" for name in names)
    kinds = dict(
        history.store.rows(
            f"SELECT name, type FROM system.columns WHERE database = 'headwater' AND table = 'events' AND name IN ({listed})"
        )
    )
    assert kinds["items"] == "Array(Map(LowCardinality(String), String))"
    assert kinds["user_properties"] == "Map(LowCardinality(String), String)"
    assert (kinds["problems"], kinds["session_id"], kinds["imported"]) == ("Array(String)", "String", "Bool")
    ((items, imported, products),) = history.store.rows(
        "SELECT items, imported, (SELECT count() FROM headwater.order_items) FROM headwater.events"
    )
    assert (items, imported, products) == ([], False, 0)
