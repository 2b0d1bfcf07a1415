"""Privacy: erases a person everywhere, exports what is held of a person, proves both, and forgets inactive ids."""
