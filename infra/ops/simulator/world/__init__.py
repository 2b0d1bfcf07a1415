"""The simulated world: people, devices, choices and events. Pure: the same seed gives the same world."""
