"""40 spoilt GGUF and ONNX files: each is refused in words that say what is wrong, in bounded time and memory."""

import os
import struct
import tracemalloc

import numpy as np
import pytest

gguf = pytest.importorskip("gguf")
onnx = pytest.importorskip("onnx")
from onnx import TensorProto, helper, numpy_helper

from converters.__main__ import main
from support import small_gguf, small_kokoro

KINDS = gguf.GGMLQuantizationType
MAX_BYTES = 64 << 20  # that a refusal may allocate, of files of 4 MB


@pytest.fixture(scope="module")
def bpe():
    return small_gguf.train_bpe()


@pytest.fixture(scope="module")
def state():
    return small_gguf.state_dict(np.random.default_rng(0))


@pytest.fixture(scope="module")
def valid(tmp_path_factory, state, bpe):
    """The bytes of a GGUF file that is converted."""
    return small_gguf.write(tmp_path_factory.mktemp("gguf") / "model.gguf", state, bpe).read_bytes()


def assert_refused(command: list, message: str, folder, capfd) -> None:
    """Run the converter, which must end with code 2, the message, and nothing written, and not take much memory."""
    before, peak = sorted(os.listdir(folder)), 0
    measured = any(text in message for text in ("do not fit", "would take", "in a file of"))  # not all: it is slow
    if measured:
        tracemalloc.start()
    code = main([str(part) for part in [*command, "--output", folder / "out"]])
    if measured:
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
    error = capfd.readouterr().err
    assert code == 2, error
    assert message in error, error
    assert error.count("\n") == 1 or "nothing was written:" in error
    assert "Traceback" not in error and sorted(os.listdir(folder)) == before and peak < MAX_BYTES


# GGUF: the bytes of a file -------------------------------------------------------------------------------------------


def header(tensors: int = 1, entries: int = 0, version: int = 3) -> bytes:
    return b"GGUF" + struct.pack("<IQQ", version, tensors, entries)


def text(value: str) -> bytes:
    return struct.pack("<Q", len(value)) + value.encode()


def one_tensor(shape=(32,), kind=0, offset=0, dimensions=None, data=b"\0" * 128) -> bytes:
    described = text("a.weight") + struct.pack("<I", len(shape) if dimensions is None else dimensions)
    described += struct.pack(f"<{len(shape)}QIQ", *shape, kind, offset)
    head = header(1, 0) + described
    return head + b"\0" * (-len(head) % 32) + data


def replaced(old: bytes, new: bytes):
    def change(valid: bytes) -> bytes:
        assert valid.count(old) >= 1
        return valid.replace(old, new, 1)

    return change


def infinite(valid: bytes) -> bytes:
    return valid[:-4] + struct.pack("<f", np.inf)


GGUF_BYTES = {
    "empty": (lambda v: b"", "too short"),
    "zeros": (lambda v: bytes(1000), "not a GGUF file"),
    "a zip file": (lambda v: b"PK\3\4" + bytes(100), "not a GGUF file"),
    "cut in the header": (lambda v: v[:200], "do not fit into"),
    "cut in the tokens": (lambda v: v[:2000], "truncated or damaged at byte"),
    "cut in the tensors' list": (lambda v: v[: v.index(b"blk.1.ffn_up") + 9], "truncated or damaged at byte"),
    "cut in a tensor": (lambda v: v[: len(v) // 2], "truncated at "),
    "cut in the last tensor": (lambda v: v[:-40], "truncated at "),
    "too long": (lambda v: v + bytes(64), "64 bytes past its last tensor"),
    "version 1": (lambda v: b"GGUF" + struct.pack("<I", 1) + v[8:], "version 1 of GGUF"),
    "big-endian": (lambda v: b"GGUF" + struct.pack(">I", 3) + v[8:], "big-endian"),
    "2^60 tensors": (lambda v: header(2**60) + v[24:], "do not fit into"),
    "2^60 entries": (lambda v: header(1, 2**60) + v[24:], "do not fit into"),
    "a text of 2^62 bytes": (lambda v: header(0, 1) + struct.pack("<Q", 2**62) + bytes(99), "would take"),
    "a list of 2^61 bytes": (
        lambda v: header(0, 1) + text("x") + struct.pack("<IIQ", 9, 0, 2**61) + bytes(99),
        "numbers of x do not fit",
    ),
    "a list of 2^61 texts": (
        lambda v: header(0, 1) + text("x") + struct.pack("<IIQ", 9, 8, 2**61) + bytes(99),
        "texts of x do not fit",
    ),
    "lists in lists": (lambda v: header(0, 1) + text("x") + struct.pack("<IIQ", 9, 9, 3) + bytes(99), "nested type"),
    "a key twice": (
        lambda v: header(0, 2) + 2 * (text("x") + struct.pack("<II", 4, 1)) + bytes(99),
        "x stands twice in its metadata",
    ),
    "an unknown value type": (
        lambda v: header(0, 1) + text("x") + struct.pack("<I", 77) + bytes(99),
        "unknown type 77",
    ),
    "not UTF-8": (lambda v: header(0, 1) + struct.pack("<Q", 2) + b"\xff\xfe" + bytes(99), "not UTF-8"),
    "a tensor of 2^64 numbers": (lambda v: one_tensor((2**32, 2**32)), "truncated at a.weight"),
    "4 billion dimensions": (lambda v: one_tensor(dimensions=2**32 - 1), "4,294,967,295 dimensions"),
    "no dimensions": (lambda v: one_tensor((), dimensions=0), "0 dimensions"),
    "a dimension of 0": (lambda v: one_tensor((32, 0)), "has shape [0, 32]"),
    "an unknown format": (lambda v: one_tensor(kind=250), "unknown format 250"),
    "integers": (lambda v: one_tensor(kind=26), "I32, which cannot be dequantised"),
    "part of a block": (lambda v: one_tensor((31,), kind=2), "has blocks of 32"),
    "beyond the end": (lambda v: one_tensor(offset=1 << 40), "it begins at 1,099,511,627,776"),
    "overlapping": (replaced(b"blk.0.attn_q", b"blk.0.attn_k"), "stands twice"),
    "an infinite number": (infinite, "infinite or not a number"),
}


@pytest.mark.parametrize("how", GGUF_BYTES)
def test_spoilt_bytes_of_gguf(how, valid, tmp_path, capfd):
    change, message = GGUF_BYTES[how]
    (tmp_path / "model.gguf").write_bytes(change(valid))
    assert_refused(["vicuna", "--input", tmp_path / "model.gguf"], message, tmp_path, capfd)


def test_two_tensors_at_one_place(valid, tmp_path, capfd):
    place = valid.index(b"blk.1.ffn_up.weight") + len(b"blk.1.ffn_up.weight") + 4 + 16 + 4
    (tmp_path / "model.gguf").write_bytes(valid[:place] + struct.pack("<Q", 0) + valid[place + 8 :])
    assert_refused(["vicuna", "--input", tmp_path / "model.gguf"], "damaged at ", tmp_path, capfd)


# GGUF: a file that is whole and says something wrong ------------------------------------------------------------------

GGUF_CONTENTS = {
    "another architecture": ({"arch": "qwen2"}, "architecture 'qwen2'; only 'llama' is known"),
    "no width": ({"left_out": {"embedding_length"}}, "llama.embedding_length is 'missing'"),
    "no epsilon": ({"left_out": {"layer_norm_rms_eps"}}, "llama.attention.layer_norm_rms_epsilon is 'missing'"),
    "an unknown cut": ({"pre": "tekken"}, "tokenizer.ggml.pre is 'tekken'"),
    "no such base": (
        {"left_out": {"rope_freq_base"}, "change": lambda w: w.add_rope_freq_base(float("nan"))},
        "is nan",
    ),
    "heads by layer": (
        {"left_out": {"head_count_kv"}, "change": lambda w: w.add_head_count_kv([2, 2])},
        "llama.attention.head_count_kv is",
    ),
    "experts": ({"change": lambda w: w.add_expert_count(8)}, "llama.expert_count is 8, which is not known"),
    "yarn": (
        {"change": lambda w: w.add_rope_scaling_type(gguf.RopeScalingType.YARN)},
        "rope scaling 'yarn'",
    ),
    "biases": (
        {"extra": {"blk.0.attn_q.bias": np.ones(128, np.float32)}},
        "blk.0.attn_q.bias is used by no rule",
    ),
    "a wrong shape": ({"wrong": "model.layers.0.mlp.up_proj.weight"}, "has shape [255, 256]"),
    "a missing tensor": ({"missing": "model.layers.1.mlp.up_proj.weight"}, "mlp.up_proj.weight is missing"),
    "a token less": ({"tokens": lambda b: b["tokens"].pop()}, "299 tokens, and an embedding of 300"),
    "a token twice": ({"tokens": lambda b: b["tokens"].__setitem__(-1, b["tokens"][9])}, "stands twice"),
    "a type less": ({"tokens": lambda b: b["types"].pop()}, "299 token types for 300 tokens"),
    "merges of others": ({"tokens": lambda b: b["merges"].append("zz yy")}, "merge 'zz yy' is not of its tokens"),
    "no merges": ({"tokens": lambda b: b["merges"].__setitem__(slice(None), ["a"])}, "merge 'a' is not"),
    "an end token beyond": (
        {"change": lambda w: w.add_pad_token_id(4000)},
        "tokenizer.ggml.padding_token_id is 4000",
    ),
    "not a number in a scale": ({"nan": True}, "model.layers.0.mlp.down_proj.weight"),
}


@pytest.mark.parametrize("how", GGUF_CONTENTS)
def test_gguf_files_that_say_something_wrong(how, state, bpe, tmp_path, capfd):
    given, message = GGUF_CONTENTS[how]
    options, state = dict(given), dict(state)
    state |= options.pop("extra", {})
    if name := options.pop("wrong", None):
        state[name] = state[name][:255]
    state.pop(options.pop("missing", None), None)
    bpe = {name: list(value) if isinstance(value, list) else value for name, value in bpe.items()}
    options.pop("tokens", lambda b: None)(bpe)
    if options.pop("nan", False):
        raw = gguf.quants.quantize(state["model.layers.0.mlp.down_proj.weight"], KINDS.Q8_0)
        raw[3, :2] = np.array([np.nan], np.float16).view(np.uint8)
        options["raw"] = {"blk.0.ffn_down.weight": (raw, KINDS.Q8_0)}
    small_gguf.write(tmp_path / "model.gguf", state, bpe, options.pop("change", lambda w: None), **options)
    assert_refused(["vicuna", "--input", tmp_path / "model.gguf"], message, tmp_path, capfd)


def test_another_family_and_what_is_not_spoilt(valid, tmp_path, capfd):
    (tmp_path / "model.gguf").write_bytes(valid)
    assert_refused(["clip", "--input", tmp_path / "model.gguf"], "read by family vicuna", tmp_path, capfd)
    assert main(["vicuna", "--input", str(tmp_path / "model.gguf"), "--output", str(tmp_path / "out")]) == 0


# ONNX ----------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def graphs(tmp_path_factory):
    """Return the graph as floats and as quantised, and what makes the converter read its sizes."""
    with pytest.MonkeyPatch.context() as patch:
        small_kokoro.use_small_sizes(patch)
        model = small_kokoro.float_model(small_kokoro.tensors(0))
        quantized = small_kokoro.quantized_model(model, tmp_path_factory.mktemp("onnx"), per_channel=True)
    return quantized


def find(model, end: str):
    return next(initializer for initializer in model.graph.initializer if initializer.name.endswith(end))


def external(model) -> None:
    tensor = find(model, "lstms.1.fc.weight_Transposed_quantized")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    entry = tensor.external_data.add()
    entry.key, entry.value = "location", "/etc/passwd"


def replace(model, end: str, array: np.ndarray) -> None:
    tensor = find(model, end)
    tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))


def rename_all(model, old: str, new: str) -> None:
    for initializer in model.graph.initializer:
        initializer.name = initializer.name.replace(old, new)
    for node in model.graph.node:
        for position, name in enumerate(node.input):
            node.input[position] = name.replace(old, new)


def nest(model) -> None:
    branch = helper.make_graph([], "branch", [], [])
    model.graph.node.append(helper.make_node("If", ["splits"], ["y"], "/if", then_branch=branch, else_branch=branch))


def set_dims(end: str, dims: list[int]):
    def change(model) -> None:
        tensor = find(model, end)
        del tensor.dims[:]
        tensor.dims.extend(dims)

    return change


FC, BIAS, ALPHA = "F0.0.norm1.fc.weight_Transposed", "F0.0.norm1.fc.bias", "resblocks.0.alpha1.0"
ONNX_CONTENTS = {
    "external data": (external, "has its numbers in another file ('/etc/passwd')"),
    "2^50 numbers": (set_dims(ALPHA, [1 << 25, 1 << 25]), "in a file of"),
    "a negative dimension": (set_dims(ALPHA, [-16]), "has shape [-16]"),
    "fewer numbers than its shape": (set_dims(ALPHA, [1, 17, 1]), "has shape [1, 17, 1] and 8 numbers"),
    "a nameless kind": (lambda m: setattr(find(m, ALPHA), "data_type", 200), "is in the format unknown (200)"),
    "4-bit integers": (lambda m: setattr(find(m, ALPHA), "data_type", TensorProto.INT4), "in the format INT4"),
    "a name twice": (lambda m: m.graph.initializer.append(find(m, ALPHA)), "stands twice in it"),
    "a flat lstm": (set_dims("w_quantized", [2 * 24 * 32]), "its inputs are not those of a Dynamic"),
    "no scale": (lambda m: m.graph.initializer.remove(find(m, f"{FC}_scale")), "is quantised without a scale"),
    "three scales": (lambda m: replace(m, f"{FC}_scale", np.ones(3, np.float32)), "not one or one a channel"),
    "16-bit codes": (lambda m: replace(m, f"{FC}_quantized", np.ones((8, 32), np.int32)), "known are int8 and uint8"),
    "a wrong shape": (lambda m: replace(m, f"{FC}_quantized", np.ones((7, 32), np.int8)), "has shape [32, 7]"),
    "an infinite scale": (lambda m: replace(m, f"{FC}_scale", np.full(32, np.inf, np.float32)), "infinite or not"),
    "not a number": (lambda m: replace(m, BIAS, np.full(32, np.nan, np.float32)), "infinite or not"),
    "a missing weight": (lambda m: m.graph.initializer.remove(find(m, BIAS)), "norm1.fc.bias is missing"),
    "other names": (
        lambda m: rename_all(m, "F0_proj.bias", "F0_out.bias"),
        "problems, nothing was written",
    ),
    "no nodes": (lambda m: m.graph.ClearField("node"), "no nodes, no weights"),
    "no operator sets": (lambda m: m.ClearField("opset_import"), "no operator sets"),
    "sparse weights": (lambda m: m.graph.sparse_initializer.add(), "sparse weights"),
    "a graph in a node": (nest, "graphs inside nodes"),
}


@pytest.mark.parametrize("how", ONNX_CONTENTS)
def test_spoilt_onnx_files(how, graphs, tmp_path, capfd, monkeypatch):
    small_kokoro.use_small_sizes(monkeypatch)
    change, message = ONNX_CONTENTS[how]
    model = onnx.ModelProto()
    model.CopyFrom(graphs)
    change(model)
    (tmp_path / "kokoro.onnx").write_bytes(model.SerializeToString())
    assert_refused(["kokoro", "--input", tmp_path / "kokoro.onnx"], message, tmp_path, capfd)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.999])
def test_truncated_onnx_files(share, graphs, tmp_path, capfd):
    whole = graphs.SerializeToString()
    (tmp_path / "kokoro.onnx").write_bytes(whole[: int(share * len(whole))])
    assert_refused(["kokoro", "--input", tmp_path / "kokoro.onnx"], "truncated, or not an ONNX", tmp_path, capfd)


def test_what_is_no_onnx_file(tmp_path, capfd):
    (tmp_path / "kokoro.onnx").write_bytes(np.random.default_rng(0).bytes(10_000))
    assert_refused(["kokoro", "--input", tmp_path / "kokoro.onnx"], "truncated, or not an ONNX", tmp_path, capfd)
    assert_refused(["kokoro", "--input", tmp_path / "absent.onnx"], "not a file", tmp_path, capfd)
