"""The networks of a small StyleTTS 2, with the names and the calls of the original's."""

import styletts2_torch as port
import torch

from empatheia_jax.generators.styletts2.config import StyleTTS2Config


def build_model(params, aligner, pitch, bert):
    c = StyleTTS2Config.published(params)
    sizes = {"plbert_hidden": bert.config.hidden_size, "plbert_positions": bert.config.max_position_embeddings}
    c = StyleTTS2Config(**vars(c) | sizes)
    diffusion = port.Diffusion(c)
    diffusion.diffusion.owner = [diffusion]  # in a list, so that torch does not register it as a submodule
    return {
        "bert": bert,
        "bert_encoder": torch.nn.Linear(c.plbert_hidden, c.hidden_dim),
        "predictor": port.Predictor(c),
        "decoder": port.Decoder(c),
        "text_encoder": port.TextEncoder(c),
        "predictor_encoder": port.StyleEncoder(c),
        "style_encoder": port.StyleEncoder(c),
        "diffusion": diffusion,
        "mpd": None,
    }
