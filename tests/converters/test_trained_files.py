"""The published files themselves: agreement with other programs that run them. Needs `empatheia fetch`."""

import json
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("onnxruntime")
pytest.importorskip("gguf")

import jax
import jax.numpy as jnp
from flax import nnx

from converters.__main__ import main
from converters.kokoro_voices import mean_voices
from converters.verify_kokoro import verify_kokoro
from empatheia_jax.checkpoints.weights import load_weights, read_architecture, read_metadata
from empatheia_jax.config import LlamaConfig
from empatheia_jax.generators import styletts2
from empatheia_jax.llm.decode import generate
from empatheia_jax.llm.llama import Llama
from empatheia_jax.trained_parts.home import part_folder

pytestmark = pytest.mark.trained
ONNX, GGUF = "kokoro-v1.0.int8.onnx", "SmolLM2-135M-Instruct.Q4_1.gguf"


# Kokoro ---------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def kokoro(tmp_path_factory):
    output = tmp_path_factory.mktemp("kokoro") / "weights"
    assert main(["kokoro", "--input", str(part_folder("kokoro") / ONNX), "--output", str(output)]) == 0
    return output


def test_every_initialiser_of_kokoro_is_accounted_for(kokoro):
    import onnx

    manifest = json.loads((Path(__file__).parents[1] / "support" / "kokoro_manifest.json").read_text())["tensors"]
    constants = read_metadata(kokoro)["source"]["config"]["graph_constants"]
    names = {
        tensor.name for tensor in onnx.load(part_folder("kokoro") / ONNX, load_external_data=False).graph.initializer
    }
    assert set(sum(constants.values(), [])) <= names and sum(map(len, constants.values())) == 116
    assert len(manifest) == 457


def test_kokoro_agrees_with_onnx_runtime(kokoro):
    report = verify_kokoro(part_folder("kokoro") / ONNX, kokoro)
    assert report.values.keys() == {"durations", "F0", "energy", "log-magnitudes"}
    assert report.good, report.lines()


def test_the_committed_voices_are_the_mean_rows_of_the_published():
    voices = mean_voices(part_folder("kokoro-voices") / "voices")
    with np.load(Path(styletts2.__file__).parent / "kokoro_voices.npz") as table:
        assert set(table.files) == set(voices) and len(voices) == 54
        for name, vector in voices.items():
            np.testing.assert_allclose(table[name], vector, atol=1e-7)


# SmolLM2 --------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smollm(tmp_path_factory):
    output = tmp_path_factory.mktemp("smollm2") / "weights"
    assert main(["vicuna", "--input", str(part_folder("smollm2-135m") / GGUF), "--output", str(output)]) == 0
    return output


def test_smollm2_has_the_logits_that_transformers_computes_from_the_file(smollm, capfd):
    pytest.importorskip("torch")
    path = part_folder("smollm2-135m") / GGUF
    assert main(["vicuna", "--input", str(path), "--output", str(smollm), "--verify"]) == 0
    assert "logits" in capfd.readouterr().out


def test_smollm2_s_tokenizer_is_the_one_in_the_file(smollm):
    transformers = pytest.importorskip("transformers")
    from empatheia_jax.data.prompts import tokenizer

    path = part_folder("smollm2-135m") / GGUF
    theirs = transformers.AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    ours = tokenizer.load(smollm)
    # transformers' reader does not cut digits apart, which the file's "smollm" asks for; these texts have none doubled.
    for text in (
        "I'm so sorry to hear that; what happened?",
        " She'd been  waiting\n\nsince May 7.",
        "naïve 日本語 😀",
    ):
        assert ours.encode(text) == theirs(text)["input_ids"]
        assert ours.decode(ours.encode(text)) == text
    assert len(ours.encode("2024")) == 4


def test_smollm2_answers_with_sympathy(smollm):
    from tokenizers import Tokenizer

    family, sizes = read_architecture(smollm)
    assert family == "LlamaConfig"
    config = LlamaConfig(**sizes, compute_dtype="float32", param_dtype="float32")
    graphdef, shapes = nnx.split(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
    llm = nnx.merge(graphdef, load_weights(smollm, shapes))
    tokenizer = Tokenizer.from_file(str(smollm / "tokenizer.json"))
    turns = "<|im_start|>user\nMy dog died last night. I can't stop crying.<|im_end|>\n<|im_start|>assistant\n"
    ids = jnp.array([tokenizer.encode(turns).ids], jnp.int32)

    def run(ids):
        lengths = jnp.array([ids.shape[1]], jnp.int32)
        return generate(llm, llm.embed, llm.embed(ids), lengths, max_new_tokens=24, eos_id=2).tokens

    text = tokenizer.decode(np.asarray(jax.jit(run)(ids))[0].tolist())
    assert "sorry" in text, text
