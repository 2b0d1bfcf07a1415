"""Benchmarks: figures and ratios from one run, side by side with peers. `python -m bench` runs them."""
