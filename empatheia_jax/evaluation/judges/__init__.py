"""Judges of speech that nobody here trained: what a recogniser hears, how clean it sounds, whose voice it is."""
