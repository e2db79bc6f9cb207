"""Random checkpoints of every family as transformers writes them: shapes from the seed, no weight left at zero."""

import json
import struct
from pathlib import Path

import numpy as np
import torch
import transformers

from converters.readers import open_checkpoint

FAMILIES = ("vicuna", "hubert", "wav2vec2", "clip")


def llama(rng: np.random.Generator, **fixed):
    """Draw a LlamaForCausalLM with or without GQA, tied embeddings and rotary scaling; `fixed` fields are not drawn."""
    kv, group = int(rng.integers(1, 4)), int(rng.integers(1, 4))
    rope = {"rope_type": "default", "rope_theta": float(rng.choice([1e4, 5e5]))}
    if rng.integers(2):
        rope |= {
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        }
    fields = {
        "vocab_size": int(rng.integers(50, 200)),
        "hidden_size": kv * group * int(rng.integers(8, 17)),
        "num_hidden_layers": int(rng.integers(2, 5)),
        "num_attention_heads": kv * group,
        "num_key_value_heads": kv,
        "head_dim": 4 * int(rng.integers(2, 9)),
        "intermediate_size": int(rng.integers(20, 120)),
        "rms_norm_eps": float(rng.choice([1e-5, 1e-6])),
        "tie_word_embeddings": bool(rng.integers(2)),
        "rope_parameters": rope,
    }
    return transformers.LlamaForCausalLM(transformers.LlamaConfig(**fields | fixed))


def mistral(rng: np.random.Generator):
    """Draw a MistralForCausalLM without a sliding window."""
    config = transformers.MistralConfig(
        vocab_size=60,
        hidden_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        intermediate_size=int(rng.integers(20, 60)),
        sliding_window=None,
        max_position_embeddings=256,
    )
    return transformers.MistralForCausalLM(config)


def _speech_fields(rng: np.random.Generator, large: bool) -> dict:
    return {
        "hidden_size": 4 * int(rng.integers(4, 9)),
        "num_hidden_layers": int(rng.integers(2, 4)),
        "num_attention_heads": 4,
        "intermediate_size": int(rng.integers(20, 60)),
        "conv_dim": [12, 14, 10],
        "conv_kernel": [10, 3, 2],
        "conv_stride": [5, 2, 2],
        "conv_bias": large,
        "do_stable_layer_norm": large,
        "feat_extract_norm": "layer" if large else "group",
        "num_conv_pos_embeddings": 8,
        "num_conv_pos_embedding_groups": 4,
    }


def hubert(rng: np.random.Generator):
    """Draw a HubertModel, base or large."""
    return transformers.HubertModel(transformers.HubertConfig(**_speech_fields(rng, bool(rng.integers(2)))))


def wav2vec2(rng: np.random.Generator):
    """Draw a Wav2Vec2ForCTC, the class of DreamTalk's speech encoder."""
    config = transformers.Wav2Vec2Config(**_speech_fields(rng, bool(rng.integers(2))), vocab_size=30)
    return transformers.Wav2Vec2ForCTC(config)


def clip(rng: np.random.Generator):
    """Draw a whole CLIP."""
    vision = {
        "hidden_size": 4 * int(rng.integers(4, 9)),
        "num_hidden_layers": int(rng.integers(2, 4)),
        "num_attention_heads": 4,
        "intermediate_size": int(rng.integers(20, 60)),
        "image_size": 24,
        "patch_size": 8,
    }
    text = {
        "hidden_size": 16,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "intermediate_size": 16,
        "vocab_size": 50,
        "projection_dim": 8,
    }
    return transformers.CLIPModel(transformers.CLIPConfig(vision_config=vision, text_config=text))


def draw(family: str, seed: int, **fixed):
    """Draw one model of a family, in eval mode; torch's generator is seeded too."""
    torch.manual_seed(seed)
    model = {"vicuna": llama, "hubert": hubert, "wav2vec2": wav2vec2, "clip": clip, "mistral": mistral}[family](
        np.random.default_rng([seed, sum(map(ord, family))]), **fixed
    )
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.1 * torch.randn_like(weight))  # norms and biases too
    return model.eval()


def save(model, folder: Path, form: str = "safetensors", dtype: str = "float32", *, shard: str = "20KB") -> None:
    """Write the model like save_pretrained, in several shards; torch's formats, which it no longer writes, by hand."""
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(folder, max_shard_size=shard)
    if form == "safetensors":
        return
    for file in folder.glob("model*"):
        file.unlink()
    state = dict(model.state_dict())
    if getattr(model.config, "tie_word_embeddings", False):
        state.pop("lm_head.weight", None)
    names = sorted(state)
    shards = {"pytorch_model-00001-of-00002.bin": names[::2], "pytorch_model-00002-of-00002.bin": names[1::2]}
    for file, part in shards.items():
        tensors = {name: state[name] for name in part}
        torch.save(tensors, folder / file, _use_new_zipfile_serialization=form == "bin")
    weight_map = {name: file for file, part in shards.items() for name in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def read_all(folder: Path) -> dict[str, np.ndarray]:
    """Read a copy of every tensor."""
    return {name: np.array(tensor.read()) for name, tensor in open_checkpoint(folder).items()}


def replace_weights(folder: Path, state: dict[str, np.ndarray]) -> Path:
    """Replace the folder's weights by one safetensors file with these tensors; return its path."""
    from safetensors.numpy import save_file

    for file in [*folder.glob("model*"), *folder.glob("pytorch_model*")]:
        file.unlink()
    path = folder / "model.safetensors"
    save_file({name: np.ascontiguousarray(array) for name, array in state.items()}, path, metadata={"format": "pt"})
    return path


def read_header(path: Path) -> tuple[dict, int]:
    """Read the header of a safetensors file, and the byte at which its tensors begin."""
    (length,) = struct.unpack("<Q", path.read_bytes()[:8])
    return json.loads(path.read_bytes()[8 : 8 + length]), 8 + length
