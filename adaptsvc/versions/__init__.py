"""Immutable model versions and the one pointer that says which serves."""
