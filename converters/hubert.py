"""HuBERT: transformers' HubertModel (or a task head on it) -> `encoders.hubert.Hubert`."""

from converters import speech_encoders

MODEL_TYPES = ("hubert",)
PREFIX = "hubert."
NETWORK = speech_encoders.NETWORK
CLASS = "HubertModel"
HARMLESS = (r"(hubert\.)?masked_spec_embed", r"lm_head\.(weight|bias)")  # for SpecAugment and CTC
CARRIED_TENSORS = (speech_encoders.SPEC_EMBED,)
parse_config = speech_encoders.parse_config
export_settings = speech_encoders.export_settings
rules = speech_encoders.rules
