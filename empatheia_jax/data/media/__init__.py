"""Recordings: where they lie, reading them, writing them."""
