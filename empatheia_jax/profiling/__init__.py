"""Where the time of a step or of an answer goes: a trace of it, read, counted and put on one page."""
