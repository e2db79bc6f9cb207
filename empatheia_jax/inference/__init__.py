"""Inference: a dialogue goes in, an avatar's answer comes out."""
