-- State of each partition of the present topics: verified up to which offset, when, and with which faults. The last result of a
-- range counts.
CREATE OR REPLACE VIEW {database}.verification_status AS
SELECT
    topic, topic_id, partition,
    maxIf(to_offset, in_turn) AS verified_to,
    max(compared_at) AS last_verified_at,
    argMax(range_records, (compared_at, to_offset)) AS last_records,
    argMax(range_kind, (compared_at, to_offset)) AS last_kind,
    sum(range_unverifiable) AS unverifiable,
    sum(range_missing) AS missing,
    sum(range_duplicates) AS duplicates,
    sum(range_unexpected) AS unexpected,
    sum(range_different) AS different
FROM (
    SELECT
        topic, topic_id, partition, from_offset, to_offset,
        max(kind NOT IN ('replay', 'dedupe')) AS in_turn,
        max(verified_at) AS compared_at,
        argMax(records, verified_at) AS range_records,
        argMax(kind, verified_at) AS range_kind,
        argMax(unverifiable, verified_at) AS range_unverifiable,
        argMax(missing, verified_at) AS range_missing,
        argMax(duplicates, verified_at) AS range_duplicates,
        argMax(unexpected, verified_at) AS range_unexpected,
        argMax(different, verified_at) AS range_different
    FROM {database}.verifications
    WHERE (topic, topic_id) IN (SELECT topic, argMax(topic_id, met_at) FROM {database}.kafka_topics GROUP BY topic)
    GROUP BY topic, topic_id, partition, from_offset, to_offset
)
GROUP BY topic, topic_id, partition
