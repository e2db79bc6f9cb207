"""Section 4.3: the content synchronizer (what is said) and the style disentangler (how it is said)."""
