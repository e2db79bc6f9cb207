"""Random Llama-architecture checkpoints, as transformers writes them: bfloat16 shards and an index.

python benchmarks/random_llama.py OUTPUT [--shape 300m|7b]

They are written layer by layer: one of 7B needs 13.5 GB of disk and little memory.
"""

import argparse
import json
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file

SHAPES = {
    "tiny": {
        "hidden_size": 64,
        "intermediate_size": 176,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 512,
    },
    "300m": {
        "hidden_size": 1024,
        "intermediate_size": 2816,
        "num_hidden_layers": 8,
        "num_attention_heads": 16,
        "num_key_value_heads": 16,
        "vocab_size": 32000,
    },
    "7b": {
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "vocab_size": 32000,
    },
}


def transformers_config(shape: str) -> dict:
    """Return transformers' config.json of a shape; "7b" is Vicuna-7B v1.5's, "300m" has 300 MB, not parameters."""
    return SHAPES[shape] | {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "hidden_act": "silu",
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 4096,
        "rope_theta": 10000.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "bos_token_id": 1,
        "eos_token_id": 2,
    }


def write_checkpoint(folder: Path, shape: str, shard_bytes: int = 3_000_000_000, seed: int = 0) -> int:
    """Write a checkpoint into a new folder; returns the bytes of its tensors.

    Args:
      folder: must not exist.
      shape: a name in `SHAPES`.
      shard_bytes: the most bytes of tensors in a file.
      seed: of the random weights.
    """
    folder.mkdir(parents=True)
    config, rng = transformers_config(shape), np.random.default_rng(seed)
    width, mlp, vocab = config["hidden_size"], config["intermediate_size"], config["vocab_size"]
    kv = width * config["num_key_value_heads"] // config["num_attention_heads"]
    shapes = {"model.embed_tokens.weight": (vocab, width)}
    for layer in range(config["num_hidden_layers"]):
        prefix = f"model.layers.{layer}"
        shapes |= {
            f"{prefix}.self_attn.{name}_proj.weight": (kv if name in "kv" else width, width) for name in "qkvo"
        } | {
            f"{prefix}.mlp.gate_proj.weight": (mlp, width),
            f"{prefix}.mlp.up_proj.weight": (mlp, width),
            f"{prefix}.mlp.down_proj.weight": (width, mlp),
            f"{prefix}.input_layernorm.weight": (width,),
            f"{prefix}.post_attention_layernorm.weight": (width,),
        }
    shapes |= {"model.norm.weight": (width,), "lm_head.weight": (vocab, width)}
    shards: list[list[str]] = [[]]
    shard_size = 0
    for name, size in shapes.items():
        if shard_size + 2 * int(np.prod(size)) > shard_bytes and shards[-1]:
            shards.append([])
            shard_size = 0
        shards[-1].append(name)
        shard_size += 2 * int(np.prod(size))
    weight_map = {}
    for number, names in enumerate(shards, 1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file({name: _draw_tensor(rng, shapes[name]) for name in names}, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(names, file)
    total = sum(2 * int(np.prod(size)) for size in shapes.values())
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {"total_size": total}, "weight_map": weight_map})
    )
    (folder / "config.json").write_text(json.dumps(config))
    return total


def _draw_tensor(rng: np.random.Generator, shape: tuple[int, ...]) -> np.ndarray:
    """Return a random tensor: norms near 1, matrices uniform with variance 1 / fan in."""
    if len(shape) == 1:
        return rng.uniform(0.5, 1.5, shape).astype(np.float32).astype(ml_dtypes.bfloat16)
    values = rng.random(shape, np.float32)
    values -= 0.5
    values *= (12 / shape[1]) ** 0.5
    return values.astype(ml_dtypes.bfloat16)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("output", type=Path)
    parser.add_argument("--shape", choices=SHAPES, default="7b")
    args = parser.parse_args()
    print(f"{args.output}: {write_checkpoint(args.output, args.shape):,} bytes")
