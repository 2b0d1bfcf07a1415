"""The collector's protocols, one module each, and the table of doors."""
