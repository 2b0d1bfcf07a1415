-- Counts are deltas: add them up. Cells with dimensions repeat events that are counted without dimensions too.
CREATE OR REPLACE VIEW {database}.volume AS
SELECT stage, minute, source, event_name, outcome, sum(n) AS events
FROM {database}.volume_1m
WHERE empty(dimensions)
GROUP BY stage, minute, source, event_name, outcome
