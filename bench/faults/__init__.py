"""Faults played while events flow into the warehouse, and the proof that no row is lost or doubled."""
