-- Counts are deltas: add them up.
CREATE OR REPLACE VIEW {database}.volume AS
SELECT stage, minute, source, event_name, outcome, sum(n) AS events
FROM {database}.volume_1m
GROUP BY stage, minute, source, event_name, outcome;
