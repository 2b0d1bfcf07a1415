"""The bandit: joins what visitors saw to what they did, learns which arm to show, and publishes snapshots."""
