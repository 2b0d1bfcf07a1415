-- Events with the profile that they belong to today.
CREATE OR REPLACE VIEW {database}.events_now AS
SELECT
    events.*,
    events.purposes AS purposes,
    if(joinGet('{database_name}.identity_overrides', 'canonical', events.profile_id) = '', events.profile_id,
        joinGet('{database_name}.identity_overrides', 'canonical', events.profile_id)) AS profile_now
FROM {database}.events AS events
