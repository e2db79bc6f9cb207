"""Tiny models, stores and corpora for tests, ours and users': made in seconds, with nothing downloaded."""
