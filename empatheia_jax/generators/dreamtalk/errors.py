"""What goes wrong when DreamTalk is asked for something."""


class DreamTalkError(ValueError):
    """Weights, a clip, a recording or a setting that cannot be animated with: says which and why."""
