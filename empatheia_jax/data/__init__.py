"""Section 3 of the paper: a dialogue on disk, on its way to arrays on devices."""
