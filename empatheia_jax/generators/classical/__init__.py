"""Generators that need no weights: an espeak-ng voice and a parametric two-dimensional face."""
