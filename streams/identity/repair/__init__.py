"""Repairs of the identity graph: splits, tidying, erasures, and the log from which it is rebuilt."""
