-- Products of events, one row each. A product without a quantity counts once; a number that cannot be read is NULL.
CREATE OR REPLACE VIEW {database}.order_items AS
SELECT
    event_id, event_name, collector_ts, source, site, profile_id, profile_now, order_id, currency,
    item['item_id'] AS item_id,
    item['item_name'] AS item_name,
    item['brand'] AS brand,
    item['category'] AS category,
    if(isFinite(toFloat64OrNull(item['price'])), toFloat64OrNull(item['price']), NULL) AS price,
    multiIf(
        item['quantity'] = '', 1,
        isFinite(toFloat64OrNull(item['quantity'])), toFloat64OrNull(item['quantity']),
        NULL
    ) AS quantity,
    price * quantity AS revenue
FROM {database}.events_now
ARRAY JOIN items AS item
