-- Events under the profile that their node belongs to now. Pointers lead to stronger tiers, so four steps reach the end; a user
-- node (tier 0) points to its label, not to another node.
CREATE OR REPLACE VIEW {database}.pointers AS
SELECT node, argMax(parent, (epoch, evidence_ts, _offset)) AS parent
FROM {database}.identity_merges
GROUP BY node
HAVING match(parent, '^[0-3][0-9a-f]{32}$') AND node NOT LIKE '0%';

CREATE OR REPLACE VIEW {database}.events_now AS
SELECT
    events.*,
    multiIf(p4.parent != '', p4.parent, p3.parent != '', p3.parent, p2.parent != '', p2.parent, p1.parent != '', p1.parent,
        events.profile_id) AS profile_now
FROM {database}.events AS events
LEFT JOIN {database}.pointers AS p1 ON events.profile_id = p1.node
LEFT JOIN {database}.pointers AS p2 ON p1.parent = p2.node
LEFT JOIN {database}.pointers AS p3 ON p2.parent = p3.node
LEFT JOIN {database}.pointers AS p4 ON p3.parent = p4.node;
