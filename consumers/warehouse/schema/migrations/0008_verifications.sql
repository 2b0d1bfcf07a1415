-- Topic ids. Dead letters carry none: those that are older than `first_seen` belong to another topic id.
CREATE TABLE IF NOT EXISTS {database}.kafka_topics
(
    topic LowCardinality(String),
    topic_id String,
    first_seen DateTime64(3, 'UTC'),
    met_at DateTime64(3, 'UTC')
)
ENGINE = MergeTree
ORDER BY (topic, topic_id)
SETTINGS fsync_after_insert = 1;
-- Offsets from_offset (included) to to_offset (excluded) of a partition, compared with Kafka's records.
CREATE TABLE IF NOT EXISTS {database}.verifications
(
    topic LowCardinality(String),
    topic_id LowCardinality(String),
    partition Int32,
    from_offset Int64,
    to_offset Int64,
    records UInt64,
    rows UInt64,
    missing UInt64,
    duplicates UInt64,
    unexpected UInt64,
    different UInt64,
    dead UInt64,
    erased UInt64,
    unverifiable UInt64,
    examples Array(Int64),
    verified_at DateTime64(3, 'UTC'),
    kind LowCardinality(String)
)
ENGINE = MergeTree
ORDER BY (topic, topic_id, partition, verified_at)
TTL toDateTime(verified_at) + INTERVAL 400 DAY
SETTINGS fsync_after_insert = 1;
