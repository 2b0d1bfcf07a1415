"""The simulated world: people, their devices, choices and events. Pure: the same seed gives the same world."""
