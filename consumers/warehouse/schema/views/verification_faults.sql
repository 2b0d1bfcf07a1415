-- Ranges of offsets that were wrong in their last comparison. A range is compared again as a whole until it is in order.
CREATE OR REPLACE VIEW {database}.verification_faults AS
SELECT
    v.topic AS topic, v.topic_id AS topic_id, v.partition AS partition, v.from_offset AS from_offset, v.to_offset AS to_offset,
    argMax(v.missing, v.verified_at) AS missing,
    argMax(v.duplicates, v.verified_at) AS duplicates,
    argMax(v.unexpected, v.verified_at) AS unexpected,
    argMax(v.different, v.verified_at) AS different,
    argMax(v.examples, v.verified_at) AS examples,
    minIf(v.verified_at, v.missing + v.duplicates + v.unexpected + v.different > 0) AS since
FROM {database}.verifications AS v
WHERE v.from_offset < v.to_offset
    AND (v.topic, v.topic_id) IN (SELECT topic, argMax(topic_id, met_at) FROM {database}.kafka_topics GROUP BY topic)
GROUP BY v.topic, v.topic_id, v.partition, v.from_offset, v.to_offset
HAVING missing + duplicates + unexpected + different > 0
