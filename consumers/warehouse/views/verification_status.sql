-- What is known of each partition of the topics that there are now: verified up to where, when, and what is wrong.
CREATE OR REPLACE VIEW {database}.verification_status AS
SELECT
    v.topic AS topic, v.topic_id AS topic_id, v.partition AS partition,
    max(v.to_offset) AS verified_to,
    max(v.verified_at) AS last_verified_at,
    argMax(v.records, (v.verified_at, v.to_offset)) AS last_records,
    argMax(v.kind, (v.verified_at, v.to_offset)) AS last_kind,
    sum(v.unverifiable) AS unverifiable,
    any(f.missing) AS missing, any(f.duplicates) AS duplicates, any(f.unexpected) AS unexpected, any(f.different) AS different
FROM {database}.verifications AS v
LEFT JOIN (
    SELECT topic, topic_id, partition, sum(missing) AS missing, sum(duplicates) AS duplicates, sum(unexpected) AS unexpected,
        sum(different) AS different
    FROM {database}.verification_faults GROUP BY topic, topic_id, partition
) AS f ON v.topic = f.topic AND v.topic_id = f.topic_id AND v.partition = f.partition
WHERE (v.topic, v.topic_id) IN (SELECT topic, argMax(topic_id, met_at) FROM {database}.kafka_topics GROUP BY topic)
GROUP BY v.topic, v.topic_id, v.partition
