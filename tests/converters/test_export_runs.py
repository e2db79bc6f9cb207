"""Trained runs exported to PEFT and transformers directories and back: same logits, token ids and numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from empatheia_jax.testing.tiny import leaves, make_model, make_tokenizer, replace_fields, small_config

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from converters.convert import convert
from converters.export import export_hf, export_peft
from converters.peft import import_adapter
from converters.tensors import ConversionError
from empatheia_jax.checkpoints.named_arrays import CheckpointError, named_arrays
from empatheia_jax.checkpoints.restore import check_base, load_adapter
from empatheia_jax.checkpoints.runs import Checkpoints, Position, identify_base, load_base, save_base
from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.config import Config, ConfigError, LoraConfig
from empatheia_jax.config.load import load_llm_config
from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS
from empatheia_jax.data.prompts.tokenizer import load as load_tokenizer
from empatheia_jax.llm.new_tokens import embed, logits
from empatheia_jax.llm.quantized import quantize_arrays
from empatheia_jax.model.empatheia import Empatheia
from empatheia_jax.model.parameter_groups import (
    ADAPTED,
    in_groups,
)
from support.random_checkpoints import draw, read_all, save

TOLERANCE = 1e-4  # of the largest logit, float32
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_run(folder, config: Config, model) -> None:
    """Write what train.py leaves of a text-only run after stage 1."""
    save_config(folder, config)
    state = nnx.state(model)
    checkpoints = Checkpoints(folder / "checkpoints")
    if config.base == "scratch":
        save_base(folder / "base", nnx.filter_state(state, in_groups(("base",))))
        make_tokenizer(config.llm.vocab_size).save(folder / "tokenizer")
        checkpoints.base = identify_base(folder / "base")
    else:
        checkpoints.base = identify_base(config.base)
    checkpoints.save(Position(7, 2, 0), nnx.filter_state(state, in_groups(ADAPTED)), (jnp.zeros(1),))
    checkpoints.close()


@pytest.fixture(scope="module", params=["tied", "untied"])
def scratch(request, seed, tmp_path_factory):
    """Write a run on a scratch base with fewer tokens in the tokenizer than embedding rows; return it and its model."""
    config = dataclasses.replace(small_config(), modalities=())
    config = replace_fields(config, "llm", tie_embeddings=request.param == "tied", vocab_size=330)
    config = replace_fields(
        config, "lora", targets=ALL if request.param == "tied" else ("q_proj", "o_proj"), alpha=24.0
    )
    folder, model = tmp_path_factory.mktemp("scratch") / "run", make_model(config, widths=None, seed=seed)
    write_run(folder, config, model)
    return folder, model


@pytest.fixture(scope="module")
def tuned(seed, tmp_path_factory):
    """Write a run on a converted base; return it, its model and the published folder."""
    folder = tmp_path_factory.mktemp("tuned")
    save(draw("vicuna", seed, vocab_size=320), folder / "published")
    make_tokenizer(320).save(folder / "published")
    convert("vicuna", folder / "published", folder / "base")
    llm = load_llm_config(folder / "base", compute_dtype="float32", param_dtype="float32", remat="none")
    config = dataclasses.replace(small_config(), modalities=(), base=str(folder / "base"), llm=llm)
    check_base(config)
    model = make_model(config, widths=None, seed=seed)
    nnx.update(model, load_base(folder / "base", nnx.filter_state(nnx.state(model), in_groups(("base",)))))
    (folder / "run").mkdir()
    make_tokenizer(320).save(folder / "run" / "tokenizer")
    write_run(folder / "run", config, model)
    return folder / "run", model, folder / "published"


def flax_logits(model, tokens, with_new_tokens: bool) -> np.ndarray:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    @jax.jit
    def run(tokens):
        hidden = model.llm(embed(model.llm, model.new_tokens, tokens), positions)[0]
        return logits(model.llm, model.new_tokens, hidden) if with_new_tokens else model.llm.logits(hidden)

    return np.asarray(run(tokens))


def torch_logits(model, tokens) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.tensor(tokens)).logits.numpy()


def assert_close(actual, expected):
    assert actual.shape == expected.shape
    assert np.abs(actual - expected).max() <= TOLERANCE * np.abs(expected).max()


def test_peft_reads_the_adapter_on_the_run_s_own_base(scratch, seed, tmp_path):
    run, model = scratch
    export_peft(run, tmp_path / "adapter")
    exported = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, model.llm.config.vocab_size, (2, 21))
    expected = torch_logits(exported, tokens)
    assert_close(flax_logits(model, tokens, with_new_tokens=False), expected)
    with exported.disable_adapter():
        difference = np.abs(torch_logits(exported, tokens) - expected).max()
    assert difference > 0.01 * np.abs(expected).max()  # the adapter has an effect


def test_peft_reads_the_adapter_on_the_published_base(tuned, seed, tmp_path):
    run, model, published = tuned
    export_peft(run, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(published.resolve())
    base = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    exported = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, model.llm.config.vocab_size, (2, 21))
    assert_close(flax_logits(model, tokens, with_new_tokens=False), torch_logits(exported, tokens))


def test_transformers_reads_the_merged_model_of_a_run_s_own_base(scratch, seed, tmp_path):
    check_merged(*scratch, seed, tmp_path)


def test_transformers_reads_the_merged_model_of_a_published_base(tuned, seed, tmp_path):
    check_merged(*tuned[:2], seed, tmp_path)


def check_merged(run, model, seed, tmp_path):
    """Compare logits over the joint vocabulary with new tokens in the input, and the tokenizer's ids."""
    export_hf(run, tmp_path / "merged")
    exported, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    size = model.llm.config.vocab_size
    tokens = np.random.default_rng(seed).integers(0, size + len(NEW_TOKENS), (2, 21))
    tokens[0, :8] = np.arange(size, size + 8)
    assert_close(flax_logits(model, tokens, with_new_tokens=True), torch_logits(exported, tokens))
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged")
    run_tokenizer = load_tokenizer(run / "tokenizer")
    assert tokenizer.convert_tokens_to_ids(list(NEW_TOKENS)) == [run_tokenizer.token_id(token) for token in NEW_TOKENS]
    text = "I lost my dog."
    token_ids = [*run_tokenizer.encode(text), run_tokenizer.token_id("<AUD3>"), *run_tokenizer.encode(" Hm")]
    assert tokenizer.encode(text + "<AUD3> Hm", add_special_tokens=False) == token_ids
    assert tokenizer.decode(token_ids, skip_special_tokens=True) == text + " Hm"
    assert exported.config.eos_token_id == tokenizer.eos_token_id == run_tokenizer.eos_id


@pytest.mark.parametrize("kind", ["int8", pytest.param("nf4", marks=pytest.mark.slow)])
def test_a_run_on_a_quantised_base_goes_out_as_it_computes(kind, seed, tmp_path):
    """Merged, it has the quantised kernels it was trained with; PEFT gets the adapter and the unquantised base."""
    pytest.importorskip("qwix")
    config = replace_fields(dataclasses.replace(small_config(), modalities=()), "lora", targets=ALL)
    model = make_model(config, widths=None, seed=seed)
    quantized_config = replace_fields(config, "llm", quantization=kind, quantization_tile=16)
    write_run(tmp_path / "run", quantized_config, model)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Empatheia(quantized_config, None, rngs=nnx.Rngs(0))))
    quantized_model = nnx.merge(graphdef, quantize_arrays(named_arrays(nnx.state(model)), abstract))
    check_merged(tmp_path / "run", quantized_model, seed, tmp_path)
    export_peft(tmp_path / "run", tmp_path / "adapter")
    exported = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, config.llm.vocab_size, (2, 21))
    assert_close(flax_logits(model, tokens, with_new_tokens=False), torch_logits(exported, tokens))


def test_a_merged_model_is_a_base_again(tuned, seed, tmp_path):
    run, model, _ = tuned
    export_hf(run, tmp_path / "merged")
    convert("vicuna", tmp_path / "merged", tmp_path / "again")
    llm = load_llm_config(tmp_path / "again", compute_dtype="float32", param_dtype="float32", remat="none")
    assert llm.vocab_size == model.llm.config.vocab_size + len(NEW_TOKENS)
    config = dataclasses.replace(small_config(), modalities=(), base=str(tmp_path / "again"), llm=llm)
    again = make_model(config, widths=None)
    nnx.update(again, load_base(tmp_path / "again", nnx.filter_state(nnx.state(again), in_groups(("base",)))))
    for name in ALL:
        part = getattr(again.llm.layers, name)
        if part.adapted:
            part.lora_b[...] = jnp.zeros(part.lora_b.shape)
    tokens = np.random.default_rng(seed).integers(0, llm.vocab_size, (2, 21))
    assert_close(flax_logits(again, tokens, with_new_tokens=False), flax_logits(model, tokens, with_new_tokens=True))


def test_an_exported_adapter_comes_back_bit_for_bit_and_is_what_a_run_starts_from(scratch, tmp_path):
    run, model = scratch
    export_peft(run, tmp_path / "adapter")
    import_adapter(tmp_path / "adapter", run, tmp_path / "back")
    config = dataclasses.replace(
        small_config(),
        modalities=(),
        base=str(run / "base"),
        adapter=str(tmp_path / "back"),
        llm=model.llm.config,
        lora=model.llm.lora,
    )
    check_base(config)
    started = leaves(load_adapter(config, nnx.state(make_model(config, widths=None, seed=99))))
    expected = leaves(nnx.state(model))
    adapted = [name for name in expected if "lora" in name or "new_tokens" in name]
    assert len(adapted) == 2 * len(config.lora.targets) + 2
    for name in adapted:
        np.testing.assert_array_equal(started[name], expected[name], err_msg=name)
    with pytest.raises(ConfigError, match="make them agree"):
        check_base(replace_fields(config, "lora", rank=8))
    with pytest.raises(ConfigError, match="it belongs to a base"):
        check_base(dataclasses.replace(config, base="scratch"))
    with pytest.raises(ConfigError, match="none there"):
        check_base(dataclasses.replace(config, adapter=str(run)))


def test_another_llm_than_the_base_is_refused_before_anything_is_read(tuned):
    config = Config(modalities=(), base=str(tuned[0].parent / "base"))
    with pytest.raises(ConfigError, match=r"is another LLM than the config's llm: .*vocab_size 32000 \(there 320\)"):
        check_base(config)
    state = nnx.filter_state(nnx.state(make_model(small_config(), widths=None)), in_groups(("base",)))
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        load_base(tuned[0].parent / "base", state)


# Adapters that PEFT itself wrote --------------------------------------------------------------------------------------


def write_peft_adapter(published, folder, seed, **fields):
    """Let peft write an adapter whose B is far from zero; return its model."""
    torch.manual_seed(seed)
    base = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    fields = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | fields
    model = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2)
    model.save_pretrained(folder)
    return model


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"target_modules": r".*\.mlp\.(up|gate)_proj"}],
)
def test_an_adapter_of_peft_computes_the_same_here(fields, tuned, seed, tmp_path):
    run, model, published = tuned
    base = run.parent / "base"
    peft_model = write_peft_adapter(published, tmp_path / "adapter", seed, **fields)
    import_adapter(tmp_path / "adapter", base, tmp_path / "back")
    architecture = json.loads((tmp_path / "back" / "config.json").read_text())["architecture"]
    lora = LoraConfig(architecture["rank"], architecture["alpha"], 0.0, targets=tuple(architecture["targets"]))
    llm = model.llm.config
    config = dataclasses.replace(
        small_config(), modalities=(), base=str(base), adapter=str(tmp_path / "back"), llm=llm, lora=lora
    )
    check_base(config)
    model = make_model(config, widths=None)
    nnx.update(model, load_base(base, nnx.filter_state(nnx.state(model), in_groups(("base",)))))
    nnx.update(model, load_adapter(config, nnx.state(model)))
    tokens = np.random.default_rng(seed).integers(0, llm.vocab_size, (2, 21))
    assert_close(flax_logits(model, tokens, with_new_tokens=False), torch_logits(peft_model, tokens))


def test_adapters_that_ours_is_not_are_refused(tuned, seed, tmp_path):
    run, _, published = tuned
    base, folder = run.parent / "base", tmp_path / "adapter"
    write_peft_adapter(published, folder, seed)
    path = folder / "adapter_config.json"
    good = json.loads(path.read_text())
    for changes, message in (
        ({"use_dora": True}, "use_dora"),
        ({"bias": "all"}, "bias"),
        ({"peft_type": "IA3"}, "peft_type"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"target_modules": ["embed_tokens"]}, "target_modules"),
        ({"rank_pattern": {"q_proj": 8}}, "rank_pattern"),
        ({"r": 8}, "has shape"),
        ({"target_modules": ["q_proj"]}, "is used by no rule"),
        ({"target_modules": list(ALL)}, "is missing"),
    ):
        path.write_text(json.dumps(good | changes))
        with pytest.raises(ConversionError, match=message):
            import_adapter(folder, base, tmp_path / "back")
    path.write_text(json.dumps(good))
    (folder / "empatheia.json").write_text(json.dumps({"base": "another", "base_sha256": "f" * 64}))
    with pytest.raises(ConversionError, match="was trained on another with hash ffff"):
        import_adapter(folder, base, tmp_path / "back")
    assert not (tmp_path / "back").exists()


def test_a_run_without_a_finished_stage_exports_nothing(tmp_path):
    save_config(tmp_path / "run", dataclasses.replace(small_config(), modalities=()))
    for export in (export_hf, export_peft):
        with pytest.raises(ConversionError, match="no checkpoint after stage 0"):
            export(tmp_path / "run", tmp_path / "out")
    assert {path.name for path in tmp_path.iterdir()} == {"run"}


def test_nothing_is_written_over(scratch, tmp_path):
    (tmp_path / "out").mkdir()
    for export in (export_hf, export_peft):
        with pytest.raises(ConversionError, match="is there already"):
            export(scratch[0], tmp_path / "out")


def test_several_shards_have_an_index(scratch, tmp_path, monkeypatch):
    from converters import outputs

    export_hf(scratch[0], tmp_path / "single")
    monkeypatch.setattr(outputs.Shards.__init__, "__defaults__", ("model", 20_000))
    export_hf(scratch[0], tmp_path / "several")
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 2
    single, several = read_all(tmp_path / "single"), read_all(tmp_path / "several")
    assert single.keys() == several.keys()
    assert all(np.array_equal(single[name], several[name]) for name in single)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "several")
