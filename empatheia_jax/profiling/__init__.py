"""Profiling of a training step or of an answer: trace it, read the trace, and summarise it on one page."""
