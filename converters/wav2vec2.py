"""wav2vec 2.0: transformers' Wav2Vec2Model (or Wav2Vec2ForCTC, ForPreTraining) -> `encoders.hubert.Hubert`.

DreamTalk's speech encoder is `jonatasgrosman/wav2vec2-large-xlsr-53-english`.
"""

from converters import speech_encoders
from empatheia_jax.encoders.hubert import HubertConfig

MODEL_TYPES = ("wav2vec2",)
PREFIX = "wav2vec2."
NETWORK = speech_encoders.NETWORK
CLASS = "Wav2Vec2Model"
HARMLESS = (
    r"(wav2vec2\.)?masked_spec_embed",
    r"lm_head\.(weight|bias)",
    r"quantizer\.(codevectors|weight_proj\.(weight|bias))",  # for pre-training only
    r"project_(hid|q)\.(weight|bias)",
)
CARRIED_TENSORS = (speech_encoders.SPEC_EMBED,)


def parse_config(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """Convert settings as for HuBERT; as in transformers, features are always normed before their projection."""
    return speech_encoders.parse_config(settings | {"feat_proj_layer_norm": True}, preprocessor)


rules = speech_encoders.rules
