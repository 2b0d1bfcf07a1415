-- Positions of erased rows, without identifiers: a replay does not fill them in.
CREATE TABLE IF NOT EXISTS {database}.erased_rows
(
    table_name LowCardinality(String),
    _partition Int32,
    _offset Int64,
    request_id String,
    erased DateTime DEFAULT now()
)
ENGINE = ReplacingMergeTree
ORDER BY (table_name, _partition, _offset, request_id)
TTL erased + INTERVAL 1100 DAY
SETTINGS fsync_after_insert = 1
