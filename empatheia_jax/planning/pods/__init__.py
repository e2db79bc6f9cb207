"""Planning a run for machines that are not at hand: what a training step needs of them, and whether it fits."""
