"""The bandit: joins events to decisions, counts rewards, learns which arm to show, and publishes snapshots."""
