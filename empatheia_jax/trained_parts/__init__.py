"""Trained parts that others have published: which there are, and where they lie on this machine."""
