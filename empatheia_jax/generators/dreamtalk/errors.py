"""The error that DreamTalk raises."""


class DreamTalkError(ValueError):
    """Weights, a clip, a recording or a setting cannot be used; the message says which and why."""
