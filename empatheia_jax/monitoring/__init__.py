"""Watching a run: its clock and goodput, stalls, signals to stop, agreement between processes."""
