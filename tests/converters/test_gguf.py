"""GGUF files: quantised numbers, rotary order, settings and tokenizers, against other code than the converter's."""

import functools
import json
import os

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
import tokenizers
from tokenizers import pre_tokenizers

from converters import gguf_files, gguf_llama
from converters.__main__ import main
from converters.convert import open_source
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.weights import read_arrays, read_metadata
from empatheia_jax.config import RopeScaling
from empatheia_jax.llm.llama import rope_frequencies
from support import small_gguf

KINDS = gguf.GGMLQuantizationType


@pytest.fixture(scope="module")
def bpe():
    return small_gguf.train_bpe()


@pytest.fixture(scope="module")
def state(seed):
    return small_gguf.state_dict(np.random.default_rng(seed))


@pytest.fixture
def write(tmp_path, state, bpe):
    return functools.partial(small_gguf.write, tmp_path / "model.gguf", state, bpe)


# Tensors --------------------------------------------------------------------------------------------------------------


def test_float_and_half_tensors_are_the_state_dict_again(write, state):
    kinds = {"blk.1.attn_q.weight": KINDS.F16, "blk.0.attn_k.weight": KINDS.BF16, "token_embd.weight": KINDS.F16}
    opened = open_source("vicuna", write(kinds=kinds))
    assert opened.tensors.keys() == state.keys()
    narrow = {"model.layers.1.self_attn.q_proj.weight": "float16", "model.embed_tokens.weight": "float16"}
    narrow["model.layers.0.self_attn.k_proj.weight"] = "bfloat16"
    for name, array in state.items():
        tensor = opened.tensors[name]
        assert str(tensor.dtype) == narrow.get(name, "float32")
        np.testing.assert_array_equal(tensor.read(), array.astype(tensor.dtype))


@pytest.mark.parametrize("kind", ["Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0"])
def test_legacy_quantised_tensors_are_near_the_floats(kind, write, state):
    opened = open_source("vicuna", write(kinds={"blk.0.ffn_down.weight": KINDS[kind]}))
    name = "model.layers.0.mlp.down_proj.weight"
    blocks = state[name].reshape(-1, 32)
    error = np.abs(opened.tensors[name].read().reshape(-1, 32) - blocks).max(axis=1)
    levels = {"Q4": 15, "Q5": 31, "Q8": 255}[kind[:2]]
    extent = 2 * np.abs(blocks).max(axis=1) if kind[-1] == "0" else np.ptp(blocks, axis=1)
    assert (error <= 1.02 * extent / levels).all() and error.max() > 0
    assert opened.tensors[name].dtype == np.float32


def test_q4_1_and_q8_0_by_their_definition(write, state, seed):
    """Blocks of 32: d and m in half precision and 16 bytes of two codes each; d and 32 signed bytes."""
    rng = np.random.default_rng(seed)
    blocks = small_gguf.MLP * small_gguf.WIDTH // 32
    d, m = (rng.uniform(0.01, 0.1, blocks).astype(np.float16) for _ in range(2))
    codes, wide = rng.integers(0, 16, (blocks, 32)), rng.integers(-128, 128, (blocks, 32)).astype(np.int8)
    halves = np.stack([d, m], axis=1).view(np.uint8)
    raw4 = np.concatenate([halves, (codes[:, :16] | codes[:, 16:] << 4).astype(np.uint8)], axis=1)
    raw8 = np.concatenate([d[:, None].view(np.uint8), wide.view(np.uint8)], axis=1)
    raw = {"blk.0.ffn_up.weight": (raw4.reshape(small_gguf.MLP, -1), KINDS.Q4_1)}
    raw["blk.1.ffn_up.weight"] = (raw8.reshape(small_gguf.MLP, -1), KINDS.Q8_0)
    tensors = open_source("vicuna", write(raw=raw)).tensors
    expected = codes * d[:, None].astype(np.float32) + m[:, None].astype(np.float32)
    for layer, value in enumerate((expected, wide * d[:, None].astype(np.float32))):
        array = tensors[f"model.layers.{layer}.mlp.up_proj.weight"].read()
        np.testing.assert_allclose(array.reshape(-1, 32), value, rtol=1e-6)


@pytest.mark.parametrize("kind", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "IQ4_XS"])
def test_k_quants_of_q_are_dequantised_and_then_unpermuted(kind, write, seed):
    _, size = gguf.GGML_QUANT_SIZES[KINDS[kind]]
    rng = np.random.default_rng(seed)
    rows = small_gguf.HEADS * small_gguf.HEAD_DIM
    block = gguf.GGML_QUANT_SIZES[KINDS[kind]][0]
    raw = rng.integers(0, 48, (rows, small_gguf.WIDTH // block * size), np.uint8)  # halves of such bytes are finite
    path = write(raw={"blk.0.attn_q.weight": (raw, KINDS[kind])})
    array = open_source("vicuna", path).tensors["model.layers.0.self_attn.q_proj.weight"].read()
    expected = gguf.quants.dequantize(raw, KINDS[kind])
    np.testing.assert_array_equal(small_gguf.interleaved(array, small_gguf.HEADS), expected)
    assert array.dtype == np.float32 and len(np.unique(array)) > 10


def test_interleaved_rotation_of_the_files_rows_is_ours_of_the_unpermuted_rows(seed):
    """llama.cpp rotates neighbours, we halves: q . k at any two positions must be the same."""
    rng = np.random.default_rng(seed)
    heads, size, width = 3, 8, 5
    rows = {name: rng.normal(size=(heads * size, width)) for name in "qk"}
    frequencies = rope_frequencies(size, 1e4).astype(np.float64)

    def rotate(x, position):  # neighbours
        pairs = x.reshape(heads, size // 2, 2) @ [[1, 1j], [1j, -1]]
        turned = pairs[..., 0] * np.exp(1j * position * frequencies)
        return np.stack([turned.real, turned.imag], axis=-1).reshape(heads, size)

    def rotate_halves(x, position):
        first, second = np.split(x.reshape(heads, size), 2, axis=1)
        turned = (first + 1j * second) * np.exp(1j * position * frequencies)
        return np.concatenate([turned.real, turned.imag], axis=1)

    x, y = rng.normal(size=(2, width))
    q, k = (gguf_llama.unpermute(rows[name], heads) for name in "qk")
    theirs = np.sum(rotate(rows["q"] @ x, 7) * rotate(rows["k"] @ y, 3), axis=1)
    np.testing.assert_allclose(np.sum(rotate_halves(q @ x, 7) * rotate_halves(k @ y, 3), axis=1), theirs, rtol=1e-9)


# Settings -------------------------------------------------------------------------------------------------------------


def test_the_config_is_all_from_the_file(write, tmp_path, state):
    assert main(["vicuna", "--input", str(write()), "--output", str(tmp_path / "out")]) == 0
    sizes = read_metadata(tmp_path / "out")["architecture"]
    assert (sizes["width"], sizes["mlp_width"], sizes["layers"], sizes["vocab_size"]) == (256, 256, 2, 300)
    assert (sizes["heads"], sizes["kv_heads"], sizes["head_dim"]) == (4, 2, 32)
    assert (sizes["rope_theta"], sizes["norm_epsilon"], sizes["tie_embeddings"]) == (5e4, 1e-5, False)
    arrays = dict(read_arrays(tmp_path / "out"))
    np.testing.assert_array_equal(
        arrays["layers/q_proj/kernel/1"].reshape(256, -1), state["model.layers.1.self_attn.q_proj.weight"].T
    )
    names = {path.name for path in (tmp_path / "out").iterdir()}
    assert names == {"config.json", "params", "tokenizer.json", "tokenizer_config.json"}
    assert main(["export", "--weights", str(tmp_path / "out"), "--output", str(tmp_path / "hf")]) == 0
    exported = open_source("vicuna", tmp_path / "hf")
    assert exported.config == open_source("vicuna", tmp_path / "model.gguf").config
    assert exported.tensors.keys() == state.keys() and (tmp_path / "hf" / "tokenizer.json").exists()
    for name, array in state.items():
        np.testing.assert_array_equal(exported.tensors[name].read(), array)


def test_tied_embeddings_and_the_default_of_theta(tmp_path, bpe, seed):
    state = small_gguf.state_dict(np.random.default_rng(seed), tied=True)
    path = small_gguf.write(tmp_path / "m.gguf", state, bpe, left_out={"rope_freq_base"})
    config = open_source("vicuna", path).config
    assert config.tie_embeddings and config.rope_theta == 1e4


def test_rope_scaling_by_metadata_and_by_llama_3s_tensor(write, tmp_path, state, bpe):
    linear = write(lambda w: (w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR), w.add_rope_scaling_factor(4.0)))
    assert open_source("vicuna", linear).config.rope_scaling == RopeScaling("linear", factor=4.0)
    known = RopeScaling("llama3", factor=8.0, low_freq_factor=1.0, high_freq_factor=4.0, original_max_position=8192)
    plain, scaled = (rope_frequencies(32, small_gguf.THETA, scaling) for scaling in (None, known))
    factors = {"rope_freqs.weight": (plain / scaled).astype(np.float32)}
    path = small_gguf.write(tmp_path / "llama3.gguf", state | factors, bpe)
    assert open_source("vicuna", path).config.rope_scaling == known
    factors["rope_freqs.weight"][3:] *= 1.5
    with pytest.raises(ConversionError, match="not what Llama 3's scaling"):
        open_source("vicuna", small_gguf.write(tmp_path / "other.gguf", state | factors, bpe))


@pytest.mark.slow
def test_transformers_reads_the_same_network_and_the_same_tokens_from_the_file(write, tmp_path, capfd):
    """Its own reader dequantises, names and un-permutes; --verify runs both."""
    transformers = pytest.importorskip("transformers")
    pytest.importorskip("torch")
    kinds = {f"blk.{layer}.{name}.weight": KINDS.Q8_0 for layer in (0, 1) for name in ("attn_q", "attn_k", "ffn_up")}
    path = write(kinds=kinds)
    assert main(["vicuna", "--input", str(path), "--output", str(tmp_path / "out"), "--verify"]) == 0
    assert "logits" in capfd.readouterr().out
    theirs = transformers.AutoTokenizer.from_pretrained(tmp_path, gguf_file=path.name)
    for text in small_gguf.TEXTS:
        ids = tokenizers.Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json")).encode(text).ids
        assert theirs(text)["input_ids"] == ids


# Tokenizers -----------------------------------------------------------------------------------------------------------

HARD = [
    "I lost 2 keys in 2024, and I'm sad; don't DON'T",
    "a\n\n b\t\tc \r\n  trailing   ",
    "naïve façade 日本語 😀 x² ½ ١٢٣",
    "<|begin|>hi<|end|>",
]


def tokenizer_of(path):
    from converters.gguf_tokenizer import tokenizer_files

    files = tokenizer_files(gguf_files.open_gguf(path), small_gguf.VOCAB)
    return tokenizers.Tokenizer.from_str(files["tokenizer.json"].decode()), json.loads(files["tokenizer_config.json"])


def reference_cut(pre):
    if pre == "smollm":
        digits = pre_tokenizers.Digits(individual_digits=True)
        return pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    return pre_tokenizers.ByteLevel(add_prefix_space=False)


@pytest.mark.parametrize("pre", ["smollm", "gpt-2"])
def test_text_is_cut_and_merged_as_by_the_tokenizer_in_the_file(pre, write, bpe):
    rebuilt, settings = tokenizer_of(write(pre=pre))
    original = tokenizers.Tokenizer.from_str(json.dumps(bpe["spec"]))
    original.pre_tokenizer = reference_cut(pre)
    for text in HARD:
        assert rebuilt.encode(text).ids == original.encode(text).ids
        assert rebuilt.decode(rebuilt.encode(text).ids, skip_special_tokens=False) == text
    assert (settings["bos_token"], settings["eos_token"]) == ("<|begin|>", "<|end|>")
    assert settings["chat_template"].startswith("{% for m in messages %}")


def test_llama_3_and_the_default_cut_as_their_patterns_say(write):
    rebuilt, settings = tokenizer_of(write(pre="llama-bpe"))
    pieces = [piece for piece, _ in rebuilt.pre_tokenizer.pre_tokenize_str("It'S 12345 a\n\n b!?\n")]
    assert pieces == ["It", "'S", "Ġ", "123", "45", "Ġa", "ĊĊ", "Ġb", "!?Ċ"]
    assert settings["add_bos_token"] and rebuilt.encode("a").ids[0] == 0  # begins with <|begin|>
    rebuilt, settings = tokenizer_of(write(pre=None))
    pieces = [piece for piece, _ in rebuilt.pre_tokenizer.pre_tokenize_str("It's 12345 a, b")]
    assert pieces == ["It", "'", "s", "Ġ", "123", "45", "Ġa", ",", "Ġb"] and not settings["add_bos_token"]


def test_a_sentencepiece_tokenizer_is_rebuilt(tmp_path, state):
    sentencepiece = pytest.importorskip("sentencepiece")
    corpus = tmp_path / "corpus.txt"
    corpus.write_text("\n".join(small_gguf.TEXTS * 20))
    sentencepiece.SentencePieceTrainer.train(
        input=str(corpus),
        model_prefix=str(tmp_path / "original"),
        vocab_size=small_gguf.VOCAB,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        hard_vocab_limit=False,
        minloglevel=3,
    )
    original = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "original.model"))
    pieces = range(original.vocab_size())
    marks = (original.is_unknown, original.is_control, original.is_unused, original.is_byte)
    types = [next((kind for kind, mark in zip((2, 3, 5, 6), marks, strict=True) if mark(i)), 1) for i in pieces]

    def add(writer):
        writer.add_tokenizer_model("llama")
        writer.add_tokenizer_pre("default")
        padding = small_gguf.VOCAB - len(pieces)
        writer.add_token_list([original.id_to_piece(i) for i in pieces] + [f"[PAD{i}]" for i in range(padding)])
        writer.add_token_scores([original.get_score(i) for i in pieces] + [-1e4] * padding)
        writer.add_token_types(types + [5] * padding)
        for name, index in (("bos", 1), ("eos", 2), ("unk", 0)):
            getattr(writer, f"add_{name}_token_id")(index)

    path = small_gguf.write(tmp_path / "model.gguf", state, None, add)
    assert main(["vicuna", "--input", str(path), "--output", str(tmp_path / "out")]) == 0
    rebuilt = sentencepiece.SentencePieceProcessor(model_file=str(tmp_path / "out" / "tokenizer.model"))
    for text in [*small_gguf.TEXTS, *HARD, "  two  spaces "]:
        assert rebuilt.encode(text) == original.encode(text)
        assert rebuilt.decode(rebuilt.encode(text)) == original.decode(original.encode(text))
    assert (rebuilt.bos_id(), rebuilt.eos_id(), rebuilt.unk_id()) == (1, 2, 0)
    settings = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert settings["add_bos_token"] and settings["bos_token"] == "<s>"


def test_without_the_package_the_error_names_the_extra(write, tmp_path, capfd, monkeypatch):
    import sys

    path = write()
    monkeypatch.setitem(sys.modules, "gguf", None)
    gguf_files._can_dequantize.cache_clear()
    assert main(["vicuna", "--input", str(path), "--output", str(tmp_path / "out")]) == 2
    assert "needs gguf: pip install 'empatheia-jax[trained]'" in capfd.readouterr().err
    assert sorted(os.listdir(tmp_path)) == ["model.gguf"]
