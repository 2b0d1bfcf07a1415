-- Observed consent platforms, by their fingerprints.
CREATE OR REPLACE VIEW {database}.fingerprints AS
SELECT source, dimensions, min(minute) AS first_seen, max(minute) AS last_seen, sum(n) AS events
FROM {database}.volume_1m
WHERE outcome = 'fingerprint'
GROUP BY source, dimensions
