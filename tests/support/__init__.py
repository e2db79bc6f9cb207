"""Helpers that several tests share: runs as processes, stand-ins of published files and checkouts, goldens."""
