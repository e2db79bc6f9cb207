"""`empatheia plan --local`: the sizes of published models, from abstract shapes."""

import dataclasses
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from flax import nnx

from empatheia_jax.config import GeneratorConfig
from empatheia_jax.config.load import load_config
from empatheia_jax.model.empatheia import Empatheia
from empatheia_jax.model.parameter_groups import in_groups
from empatheia_jax.planning.local import config_widths, encoder_parts, kept_activations, local_plan, model_parts
from empatheia_jax.testing.tiny import small_config

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def vicuna():
    return load_config(str(ROOT / "configs" / "vicuna_7b.py"))


def test_published_models_have_their_published_sizes(vicuna):
    parts = {part.name: part for part in model_parts(vicuna)}
    assert parts["LLM, frozen"].parameters == 6_738_415_616  # Llama-7B
    assert parts["LLM, frozen"].weights == 2 * 6_738_415_616 + 2 * (2 * 32 + 1) * 4096  # bfloat16; norms float32
    assert parts["LoRA"].parameters == 32 * 4 * 2 * 16 * 4096  # Table 8: rank 16; q, k, v, o
    assert parts["LoRA"].training == 12 * parts["LoRA"].parameters
    assert parts["new tokens"].parameters == 2 * 34 * 4096
    encoders = {part.name: part.parameters for part in encoder_parts(vicuna)}
    assert encoders == {"hubert audio": 315_437_696, "clip video": 303_507_456}
    assert all(array.size < 2**20 for array in jax.live_arrays())  # nothing was allocated


def test_widths_are_those_of_the_named_networks(vicuna):
    widths = config_widths(vicuna)
    assert (widths.audio, widths.video) == ((32, 1024), (8, 1024))
    assert (widths.content_speech, widths.style_speech) == (1280, 256)
    assert (widths.content_video, widths.style_video) == (512, 256)  # compact
    originals = dataclasses.replace(vicuna.generators, speech="torch", face="torch")
    assert config_widths(dataclasses.replace(vicuna, generators=originals)) == widths
    windows = dataclasses.replace(vicuna, generators=GeneratorConfig("styletts2", "dreamtalk", face_content="windows"))
    assert config_widths(windows).content_video == 2816


def test_activations_are_the_named_residuals(vicuna):
    """A layer keeps q, k, v, attention out, mid and input of 4096, gate and up of 11008, two bytes each, and four bytes
    per head for the softmax's log-sum-exp.
    """
    tokens = 2 * 2048
    assert kept_activations(vicuna) == tokens * 32 * (2 * (6 * 4096 + 2 * 11008) + 4 * 32)
    full = dataclasses.replace(vicuna, llm=dataclasses.replace(vicuna.llm, remat="full"))
    assert kept_activations(full) == tokens * 32 * 2 * 4096


@pytest.mark.parametrize("name", ["tiny", "text_only", "hubert_clip_tiny"])
def test_every_config_can_be_planned(name):
    config = load_config(str(ROOT / "configs" / f"{name}.py"))
    text = local_plan(config)
    assert text.startswith(name) and "LLM (stage 0)" in text
    parts = model_parts(config)
    state = nnx.state(nnx.eval_shape(lambda: Empatheia(config, config_widths(config), rngs=nnx.Rngs(0))))
    assert sum(part.parameters for part in parts) == sum(leaf.size for leaf in jax.tree.leaves(state))
    assert f"{sum(part.parameters for part in parts):,}" in text


def test_the_command_says_the_sizes_and_refuses_what_is_no_config(tmp_path):
    def run(*arguments):
        return subprocess.run(
            [sys.executable, "-m", "empatheia_jax", "plan", *arguments, "--local"],
            cwd=ROOT,
            capture_output=True,
            text=True,
        )

    done = run("configs/vicuna_7b.py", "--lora.rank", "32")
    assert done.returncode == 0 and "33,554,432" in done.stdout, done.stderr
    done = run(str(tmp_path / "none.py"))
    assert done.returncode == 2 and done.stderr.count("\n") == 1


def quantized(config, kind: str, **llm):
    return dataclasses.replace(config, llm=dataclasses.replace(config.llm, quantization=kind, **llm))


def test_a_quantised_7b_base_by_hand(vicuna):
    """Projections of 32 layers: four of 4096 x 4096, three of 4096 x 11008; embedding and head stay bfloat16."""
    projections = 32 * (4 * 4096 * 4096 + 3 * 4096 * 11008)
    others = 2 * 2 * 32000 * 4096 + 4 * (2 * 32 + 1) * 4096
    outputs = 32 * (5 * 4096 + 2 * 11008)
    expected = {"int8": projections + 4 * outputs + others, "nf4": projections // 2 + 4 * projections // 64 + others}
    for kind, size in expected.items():
        part = next(part for part in model_parts(quantized(vicuna, kind)) if part.name == f"LLM, frozen, {kind}")
        assert (part.parameters, part.weights, part.training) == (6_738_415_616, size, 0)


def test_the_config_for_24_gb_fits_and_learns_from_as_many_rows(vicuna):
    config = load_config(str(ROOT / "configs" / "vicuna_7b_24gb.py"))
    assert config.data.rows * config.optim.accumulate == vicuna.data.rows * vicuna.optim.accumulate
    required = sum(part.bytes for part in model_parts(config)) + kept_activations(config)
    assert required < 18e9 < sum(part.bytes for part in model_parts(vicuna)) + kept_activations(vicuna)
    assert "LLM, frozen, nf4" in local_plan(config)


@pytest.mark.parametrize("kind", ["none", "int8", "nf4"])
def test_planned_bytes_are_the_bytes_of_the_arrays(kind):
    config = dataclasses.replace(small_config(), base="converted", modalities=())
    config = quantized(config, kind, quantization_tile=16)
    state = nnx.state(jax.jit(lambda: Empatheia(config, None, rngs=nnx.Rngs(0)))())
    arrays = jax.tree.leaves(nnx.filter_state(state, in_groups(("base",))))
    part = next(part for part in model_parts(config) if part.name.startswith("LLM, frozen"))
    assert part.weights == sum(array.nbytes for array in arrays)
