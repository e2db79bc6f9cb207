"""wav2vec 2.0: transformers' Wav2Vec2Model (or Wav2Vec2ForCTC, ForPreTraining) -> `encoders.hubert.Hubert`.

DreamTalk hears with `jonatasgrosman/wav2vec2-large-xlsr-53-english`.
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
    r"quantizer\.(codevectors|weight_proj\.(weight|bias))",  # what it was trained with
    r"project_(hid|q)\.(weight|bias)",
)
KEPT = (speech_encoders.SPEC_EMBED,)


def config_of(settings: dict, preprocessor: dict | None) -> HubertConfig:
    """As HuBERT's; the features are normed before their projection whatever the config says (so does transformers)."""
    return speech_encoders.config_of(settings | {"feat_proj_layer_norm": True}, preprocessor)


rules = speech_encoders.rules
