"""Planning a run for machines that are not here: what its step takes of them, and whether it fits."""
