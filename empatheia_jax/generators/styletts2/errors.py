"""What goes wrong when StyleTTS 2 is asked for something."""


class StyleTTS2Error(ValueError):
    """Weights, a recording or a setting that cannot be spoken with: says which and why."""
