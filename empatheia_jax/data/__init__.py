"""Data (section 3 of the paper): from dialogues on disk to the arrays of a training step."""
