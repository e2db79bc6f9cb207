"""From Examples to the arrays of a training step: encoded, augmented, packed, built."""
