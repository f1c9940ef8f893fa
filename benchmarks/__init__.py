"""Measurements; each module prints its own, run with `python -m`."""
