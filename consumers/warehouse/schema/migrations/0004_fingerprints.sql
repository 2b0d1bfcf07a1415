-- Cells with dimensions repeat events that are counted without dimensions too: fingerprints of consent platforms.
CREATE OR REPLACE VIEW {database}.volume AS
SELECT stage, minute, source, event_name, outcome, sum(n) AS events
FROM {database}.volume_1m
WHERE empty(dimensions)
GROUP BY stage, minute, source, event_name, outcome;
CREATE OR REPLACE VIEW {database}.fingerprints AS
SELECT source, dimensions, min(minute) AS first_seen, max(minute) AS last_seen, sum(n) AS events
FROM {database}.volume_1m
WHERE outcome = 'fingerprint'
GROUP BY source, dimensions;
