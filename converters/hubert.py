"""HuBERT: transformers' HubertModel (or a task head on it) -> `encoders.hubert.Hubert`."""

from converters import speech_encoders

MODEL_TYPES = ("hubert",)
PREFIX = "hubert."
NETWORK = speech_encoders.NETWORK
CLASS = "HubertModel"
HARMLESS = (r"(hubert\.)?masked_spec_embed", r"lm_head\.(weight|bias)")  # of SpecAugment and of CTC
KEPT = (speech_encoders.SPEC_EMBED,)
config_of = speech_encoders.config_of
settings_of = speech_encoders.settings_of
rules = speech_encoders.rules
