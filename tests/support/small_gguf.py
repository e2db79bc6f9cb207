"""A small Llama as a GGUF file, and as the state dict that transformers has of it."""

from pathlib import Path

import gguf
import numpy as np
import tokenizers
from tokenizers import models, pre_tokenizers, trainers

WIDTH, MLP, HEADS, KV_HEADS, HEAD_DIM, LAYERS, VOCAB = 256, 256, 4, 2, 32, 2, 300
TEXTS = ["I am so sorry to hear that; do you want to talk about it?", "the keys, the keys and the other keys 1999 2024"]
THETA = 50_000.0


def state_dict(rng: np.random.Generator, *, tied: bool = False) -> dict[str, np.ndarray]:
    """Return random weights under transformers' names."""
    query, key = HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM
    shapes = {"self_attn.q_proj": (query, WIDTH), "self_attn.k_proj": (key, WIDTH), "self_attn.v_proj": (key, WIDTH)}
    shapes |= {"self_attn.o_proj": (WIDTH, query), "mlp.gate_proj": (MLP, WIDTH), "mlp.up_proj": (MLP, WIDTH)}
    shapes |= {"mlp.down_proj": (WIDTH, MLP), "input_layernorm": (WIDTH,), "post_attention_layernorm": (WIDTH,)}
    names = {f"model.layers.{layer}.{name}.weight": shape for layer in range(LAYERS) for name, shape in shapes.items()}
    names |= {"model.embed_tokens.weight": (VOCAB, WIDTH), "model.norm.weight": (WIDTH,)}
    names |= {} if tied else {"lm_head.weight": (VOCAB, WIDTH)}
    return {
        name: (rng.normal(size=shape) / 16 if len(shape) > 1 else rng.uniform(0.5, 1.5, shape)).astype(np.float32)
        for name, shape in names.items()
    }


def interleaved(rows: np.ndarray, heads: int) -> np.ndarray:
    """Return q's or k's rows as llama.cpp has them: rows i and i + D / 2 of a head, which rotate together, adjacent."""
    size = len(rows) // heads
    order = [head * size + pair + half for head in range(heads) for pair in range(size // 2) for half in (0, size // 2)]
    return rows[order]


def gguf_name(name: str) -> str:
    """Return a tensor's name in GGUF."""
    whole = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}
    parts = {"q_proj": "attn_q", "k_proj": "attn_k", "v_proj": "attn_v", "o_proj": "attn_output"}
    parts |= {"gate_proj": "ffn_gate", "up_proj": "ffn_up", "down_proj": "ffn_down"}
    parts |= {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    module = name.removesuffix(".weight")
    if module in whole:
        return f"{whole[module]}.weight"
    fields = module.split(".")
    return f"blk.{fields[2]}.{parts[fields[-1]]}.weight"


def train_bpe() -> dict:
    """Return the fields of a byte-level BPE tokenizer of at most VOCAB tokens, its texts cut as SmolLM's are."""
    import json

    tokenizer = tokenizers.Tokenizer(models.BPE())
    cuts = [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(cuts)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCAB, special_tokens=["<|begin|>", "<|end|>"], initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 3, trainer)
    model = json.loads(tokenizer.to_str())["model"]
    tokens = [token for token, _ in sorted(model["vocab"].items(), key=lambda item: item[1])]
    padding = [f"[PAD{index}]" for index in range(VOCAB - len(tokens))]
    types = [3, 3] + [1] * (len(tokens) - 2) + [5] * len(padding)
    merges = [" ".join(merge) for merge in model["merges"]]
    return {"tokens": tokens + padding, "types": types, "merges": merges, "spec": json.loads(tokenizer.to_str())}


def add_tokenizer(writer: gguf.GGUFWriter, bpe: dict, pre: str | None = "smollm") -> None:
    """Add a byte-level BPE tokenizer with a chat template."""
    writer.add_tokenizer_model("gpt2")
    if pre:
        writer.add_tokenizer_pre(pre)
    writer.add_token_list(bpe["tokens"])
    writer.add_token_types(bpe["types"])
    writer.add_token_merges(bpe["merges"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_chat_template("{% for m in messages %}{{ m.content }}{% endfor %}")


def write(path: Path, state: dict, bpe: dict | None, change=lambda writer: None, **options) -> Path:
    """Write a GGUF file.

    Args:
      path: where to.
      state: weights under transformers' names.
      bpe: from `train_bpe`; None: `change` adds a tokenizer.
      change: called with the writer before the tensors are added.
      **options: pre: how the tokenizer cuts; kinds: GGUF's name of a tensor -> its gguf.GGMLQuantizationType, for all
        that are quantised by the package itself; raw: GGUF's name -> (bytes [rows, n], type); left_out: metadata.
    """
    kinds, raw, left_out = (options.get(name, {}) for name in ("kinds", "raw", "left_out"))
    writer = gguf.GGUFWriter(path, options.get("arch", "llama"))
    fields = {
        "block_count": LAYERS,
        "context_length": 512,
        "embedding_length": WIDTH,
        "feed_forward_length": MLP,
        "head_count": HEADS,
        "head_count_kv": KV_HEADS,
        "key_length": HEAD_DIM,
        "value_length": HEAD_DIM,
        "rope_dimension_count": HEAD_DIM,
        "rope_freq_base": THETA,
        "layer_norm_rms_eps": 1e-5,
    }
    for name, value in fields.items():
        if name not in left_out:
            getattr(writer, f"add_{name}")(value)
    if bpe is not None:
        add_tokenizer(writer, bpe, options.get("pre", "smollm"))
    change(writer)
    heads = {"attn_q": HEADS, "attn_k": KV_HEADS}
    for name, array in state.items():
        new = gguf_name(name) if name.startswith(("model.", "lm_head")) else name
        part = new.split(".")[-2]
        array = interleaved(array, heads[part]) if part in heads and array.ndim == 2 else array
        if new in raw:
            writer.add_tensor(new, raw[new][0], raw_dtype=raw[new][1])
        elif new in kinds:
            writer.add_tensor(new, gguf.quants.quantize(array, kinds[new]), raw_dtype=kinds[new])
        else:
            writer.add_tensor(new, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
