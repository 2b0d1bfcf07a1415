-- Purposes by name beside the bit mask.
ALTER TABLE {database}.events ADD COLUMN IF NOT EXISTS purposes Array(String)
    ALIAS arrayFilter((name, bit) -> bitAnd(consent_purposes, bit) != 0, ['analytics', 'marketing', 'personalization'], [1, 2, 4]);
