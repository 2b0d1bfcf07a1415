"""The collector under load, beside a loop that only parses and produces."""
