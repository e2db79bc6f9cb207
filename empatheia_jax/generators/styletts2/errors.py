"""The error that StyleTTS 2 raises."""


class StyleTTS2Error(ValueError):
    """Weights, a recording or a setting that cannot be spoken with: says which and why."""
