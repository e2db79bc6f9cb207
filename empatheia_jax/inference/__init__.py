"""A dialogue in, an avatar's answer out."""
