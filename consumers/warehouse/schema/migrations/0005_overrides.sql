-- History under today's identity. The profile ids that events carry or carried; `version` is when an id was last stamped (ms).
CREATE TABLE IF NOT EXISTS {database}.identity_stamped (
    profile_id String,
    version UInt64
)
ENGINE = ReplacingMergeTree(version)
ORDER BY profile_id
TTL toDateTime(intDiv(version, 1000)) + INTERVAL 761 DAY
SETTINGS fsync_after_insert = 1;
-- Ids of these that belong to another profile now; `version` is since when (ms). In memory, keyed by the whole id.
CREATE TABLE IF NOT EXISTS {database}.identity_overrides (
    profile_id String,
    canonical String,
    version UInt64
)
ENGINE = Join(ANY, LEFT, profile_id);
-- Newest processed block of each month by run, and when the last squash was.
CREATE TABLE IF NOT EXISTS {database}.identity_runs (
    version UInt64,
    kind LowCardinality(String),
    events UUID,
    event_blocks Map(String, Int64),
    merge_blocks Map(String, Int64),
    overrides UInt64,
    rewritten UInt64
)
ENGINE = MergeTree
ORDER BY version
TTL toDateTime(intDiv(version, 1000)) + INTERVAL 60 DAY
SETTINGS fsync_after_insert = 1;
CREATE OR REPLACE VIEW {database}.events_now AS
SELECT
    events.*,
    if(joinGet('{database_name}.identity_overrides', 'canonical', events.profile_id) = '', events.profile_id,
        joinGet('{database_name}.identity_overrides', 'canonical', events.profile_id)) AS profile_now
FROM {database}.events AS events;
DROP VIEW IF EXISTS {database}.pointers;
