"""Section 4.2: the core reasoner, a decoder-only language model with LoRA."""
