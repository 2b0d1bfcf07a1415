-- Positions of erased rows belong to one topic id.
ALTER TABLE {database}.erased_rows ADD COLUMN IF NOT EXISTS _topic_id String,
    MODIFY ORDER BY (table_name, _partition, _offset, request_id, _topic_id);
-- Purposes by name beside the bit mask, without a lambda: a lambda would prevent other columns from being dropped.
ALTER TABLE {database}.events MODIFY COLUMN purposes Array(String) ALIAS arrayConcat(
    if(bitAnd(consent_purposes, 1) != 0, ['analytics'], []),
    if(bitAnd(consent_purposes, 2) != 0, ['marketing'], []),
    if(bitAnd(consent_purposes, 4) != 0, ['personalization'], []));
