"""Section 5: the losses (Eq. 8-13), the four stages, and the compiled step."""
