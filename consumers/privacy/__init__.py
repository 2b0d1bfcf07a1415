"""The privacy desk: a person erased everywhere, shown what is held of her, and the proof of both."""
