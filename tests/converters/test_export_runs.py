"""Trained runs -> PEFT and transformers directories and back: the same logits, the same ids, the same numbers."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from small import leaves, make_model, make_tokenizer, small_config, sub

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

from published import draw, read_all, save  # noqa: E402

from converters.convert import convert  # noqa: E402
from converters.export_run import export_hf, export_peft  # noqa: E402
from converters.peft import import_adapter  # noqa: E402
from converters.readers import ConversionError  # noqa: E402
from empatheia_jax.checkpoint import Checkpoints, Position, identify_base, load_base, save_base  # noqa: E402
from empatheia_jax.config import Config, ConfigError, LoraConfig  # noqa: E402
from empatheia_jax.config_io import llm_of  # noqa: E402
from empatheia_jax.data.tokenizer import NEW_TOKENS  # noqa: E402
from empatheia_jax.data.tokenizer import load as load_tokenizer  # noqa: E402
from empatheia_jax.empatheia import Empatheia  # noqa: E402
from empatheia_jax.llm.new_tokens import embed, logits  # noqa: E402
from empatheia_jax.llm.quantized import quantized  # noqa: E402
from empatheia_jax.states import CheckpointError, named  # noqa: E402
from empatheia_jax.training.bases import check_base, load_adapter  # noqa: E402
from empatheia_jax.training.run import save_config  # noqa: E402
from empatheia_jax.training.stages import ADAPTED  # noqa: E402
from empatheia_jax.training.step import trains  # noqa: E402

TOLERANCE = 1e-4  # of the logits' scale, float32
ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


def write_run(folder, config: Config, model) -> None:
    """What train.py leaves of a text-only run after stage 1."""
    save_config(folder, config)
    state = nnx.state(model)
    checkpoints = Checkpoints(folder / "checkpoints")
    if config.base == "scratch":
        save_base(folder / "base", nnx.filter_state(state, trains(("base",))))
        make_tokenizer(config.llm.vocab_size).save(folder / "tokenizer")
        checkpoints.base = identify_base(folder / "base")
    else:
        checkpoints.base = identify_base(config.base)
    checkpoints.save(Position(7, 2, 0), nnx.filter_state(state, trains(ADAPTED)), (jnp.zeros(1),))
    checkpoints.close()


@pytest.fixture(scope="module", params=["tied", "untied"])
def scratch(request, seed, tmp_path_factory):
    """(run with a base of its own, its model); its tokenizer has fewer words than the embedding has rows."""
    config = dataclasses.replace(small_config(), modalities=())
    config = sub(config, "llm", tie_embeddings=request.param == "tied", vocab_size=330)
    config = sub(config, "lora", targets=ALL if request.param == "tied" else ("q_proj", "o_proj"), alpha=24.0)
    folder, model = tmp_path_factory.mktemp("scratch") / "run", make_model(config, widths=None, seed=seed)
    write_run(folder, config, model)
    return folder, model


@pytest.fixture(scope="module")
def tuned(seed, tmp_path_factory):
    """(run on a converted base, its model, the published folder)."""
    folder = tmp_path_factory.mktemp("tuned")
    save(draw("vicuna", seed, vocab_size=320), folder / "published")
    make_tokenizer(320).save(folder / "published")
    convert("vicuna", folder / "published", folder / "base")
    llm = llm_of(folder / "base", compute_dtype="float32", param_dtype="float32", remat="none")
    config = dataclasses.replace(small_config(), modalities=(), base=str(folder / "base"), llm=llm)
    check_base(config)
    model = make_model(config, widths=None, seed=seed)
    nnx.update(model, load_base(folder / "base", nnx.filter_state(nnx.state(model), trains(("base",)))))
    (folder / "run").mkdir()
    make_tokenizer(320).save(folder / "run" / "tokenizer")
    write_run(folder / "run", config, model)
    return folder / "run", model, folder / "published"


def our_logits(model, tokens, new: bool) -> np.ndarray:
    positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)

    @jax.jit
    def run(tokens):
        hidden = model.llm(embed(model.llm, model.new_tokens, tokens), positions)[0]
        return logits(model.llm, model.new_tokens, hidden) if new else model.llm.logits(hidden)

    return np.asarray(run(tokens))


def torch_logits(twin, tokens) -> np.ndarray:
    with torch.no_grad():
        return twin.eval()(torch.tensor(tokens)).logits.numpy()


def assert_close(ours, theirs):
    assert ours.shape == theirs.shape
    assert np.abs(ours - theirs).max() <= TOLERANCE * np.abs(theirs).max()


def test_peft_reads_the_adapter_on_the_run_s_own_base(scratch, seed, tmp_path):
    run, model = scratch
    export_peft(run, tmp_path / "adapter")
    twin = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, model.llm.config.vocab_size, (2, 21))
    theirs = torch_logits(twin, tokens)
    assert_close(our_logits(model, tokens, new=False), theirs)
    with twin.disable_adapter():
        assert np.abs(torch_logits(twin, tokens) - theirs).max() > 0.01 * np.abs(theirs).max()  # it did something


def test_peft_reads_the_adapter_on_the_published_base(tuned, seed, tmp_path):
    run, model, published = tuned
    export_peft(run, tmp_path / "adapter")
    settings = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert settings["base_model_name_or_path"] == str(published.resolve())
    base = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    twin = peft.PeftModel.from_pretrained(base, tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, model.llm.config.vocab_size, (2, 21))
    assert_close(our_logits(model, tokens, new=False), torch_logits(twin, tokens))


def test_transformers_reads_the_merged_model_of_a_run_s_own_base(scratch, seed, tmp_path):
    check_merged(*scratch, seed, tmp_path)


def test_transformers_reads_the_merged_model_of_a_published_base(tuned, seed, tmp_path):
    check_merged(*tuned[:2], seed, tmp_path)


def check_merged(run, model, seed, tmp_path):
    """Logits over the joint vocabulary, new tokens in the input, and the tokenizer's ids."""
    export_hf(run, tmp_path / "merged")
    twin, info = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "merged", output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    size = model.llm.config.vocab_size
    tokens = np.random.default_rng(seed).integers(0, size + len(NEW_TOKENS), (2, 21))
    tokens[0, :8] = np.arange(size, size + 8)
    assert_close(our_logits(model, tokens, new=True), torch_logits(twin, tokens))
    words, ours = transformers.AutoTokenizer.from_pretrained(tmp_path / "merged"), load_tokenizer(run / "tokenizer")
    assert words.convert_tokens_to_ids(list(NEW_TOKENS)) == [ours.token_id(token) for token in NEW_TOKENS]
    text = "I lost my dog."
    expected = [*ours.encode(text), ours.token_id("<AUD3>"), *ours.encode(" Hm")]
    assert words.encode(text + "<AUD3> Hm", add_special_tokens=False) == expected
    assert words.decode(expected, skip_special_tokens=True) == text + " Hm"
    assert (twin.config.eos_token_id, words.eos_token_id) == (ours.eos_id, ours.eos_id)


@pytest.mark.parametrize("kind", ["int8", pytest.param("nf4", marks=pytest.mark.slow)])
def test_a_run_on_a_quantised_base_goes_out_as_it_computes(kind, seed, tmp_path):
    """Merged: on the kernels it was trained with. For PEFT: the adapter, and the base as it was."""
    pytest.importorskip("qwix")
    config = sub(dataclasses.replace(small_config(), modalities=()), "lora", targets=ALL)
    model = make_model(config, widths=None, seed=seed)
    held = sub(config, "llm", quantization=kind, quantization_tile=16)
    write_run(tmp_path / "run", held, model)
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Empatheia(held, None, rngs=nnx.Rngs(0))))
    quantized_model = nnx.merge(graphdef, quantized(named(nnx.state(model)), abstract))
    check_merged(tmp_path / "run", quantized_model, seed, tmp_path)
    export_peft(tmp_path / "run", tmp_path / "adapter")
    twin = peft.AutoPeftModelForCausalLM.from_pretrained(tmp_path / "adapter")
    tokens = np.random.default_rng(seed).integers(0, config.llm.vocab_size, (2, 21))
    assert_close(our_logits(model, tokens, new=False), torch_logits(twin, tokens))


def test_a_merged_model_is_a_base_again(tuned, seed, tmp_path):
    run, model, _ = tuned
    export_hf(run, tmp_path / "merged")
    convert("vicuna", tmp_path / "merged", tmp_path / "again")
    llm = llm_of(tmp_path / "again", compute_dtype="float32", param_dtype="float32", remat="none")
    assert llm.vocab_size == model.llm.config.vocab_size + len(NEW_TOKENS)
    config = dataclasses.replace(small_config(), modalities=(), base=str(tmp_path / "again"), llm=llm)
    again = make_model(config, widths=None)
    nnx.update(again, load_base(tmp_path / "again", nnx.filter_state(nnx.state(again), trains(("base",)))))
    for name in ALL:
        part = getattr(again.llm.layers, name)
        if part.adapted:
            part.lora_b[...] = jnp.zeros(part.lora_b.shape)
    tokens = np.random.default_rng(seed).integers(0, llm.vocab_size, (2, 21))
    assert_close(our_logits(again, tokens, new=False), our_logits(model, tokens, new=True))


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
    wanted = leaves(nnx.state(model))
    adapted = [name for name in wanted if "lora" in name or "new_tokens" in name]
    assert len(adapted) == 2 * len(config.lora.targets) + 2
    for name in adapted:
        np.testing.assert_array_equal(started[name], wanted[name], err_msg=name)
    with pytest.raises(ConfigError, match="make them agree"):
        check_base(sub(config, "lora", rank=8))
    with pytest.raises(ConfigError, match="it belongs to a base"):
        check_base(dataclasses.replace(config, base="scratch"))
    with pytest.raises(ConfigError, match="none there"):
        check_base(dataclasses.replace(config, adapter=str(run)))


def test_another_llm_than_the_base_is_refused_before_anything_is_read(tuned):
    config = Config(modalities=(), base=str(tuned[0].parent / "base"))
    with pytest.raises(ConfigError, match=r"is another LLM than the config's llm: .*vocab_size 32000 \(there 320\)"):
        check_base(config)
    state = nnx.filter_state(nnx.state(make_model(small_config(), widths=None)), trains(("base",)))
    with pytest.raises(CheckpointError, match="weights of another architecture"):
        load_base(tuned[0].parent / "base", state)


# Adapters that PEFT itself wrote --------------------------------------------------------------------------------------


def peft_adapter(published, folder, seed, **fields):
    """An adapter with B far from zero, written by peft."""
    torch.manual_seed(seed)
    base = transformers.AutoModelForCausalLM.from_pretrained(published, dtype=torch.float32)
    fields = {"r": 4, "lora_alpha": 6, "target_modules": ["q_proj", "down_proj"]} | fields
    twin = peft.get_peft_model(base, peft.LoraConfig(task_type="CAUSAL_LM", **fields))
    with torch.no_grad():
        for name, weight in twin.named_parameters():
            if "lora_" in name:
                weight.normal_(0.0, 0.2)
    twin.save_pretrained(folder)
    return twin


@pytest.mark.parametrize(
    "fields",
    [{}, {"use_rslora": True}, {"target_modules": "all-linear"}, {"target_modules": r".*\.mlp\.(up|gate)_proj"}],
)
def test_an_adapter_of_peft_computes_the_same_here(fields, tuned, seed, tmp_path):
    run, model, published = tuned
    base = run.parent / "base"
    twin = peft_adapter(published, tmp_path / "adapter", seed, **fields)
    import_adapter(tmp_path / "adapter", base, tmp_path / "back")
    facts = json.loads((tmp_path / "back" / "config.json").read_text())["architecture"]
    lora = LoraConfig(rank=facts["rank"], alpha=facts["alpha"], dropout=0.0, targets=tuple(facts["targets"]))
    llm = model.llm.config
    config = dataclasses.replace(
        small_config(), modalities=(), base=str(base), adapter=str(tmp_path / "back"), llm=llm, lora=lora
    )
    check_base(config)
    ours = make_model(config, widths=None)
    nnx.update(ours, load_base(base, nnx.filter_state(nnx.state(ours), trains(("base",)))))
    nnx.update(ours, load_adapter(config, nnx.state(ours)))
    tokens = np.random.default_rng(seed).integers(0, llm.vocab_size, (2, 21))
    assert_close(our_logits(ours, tokens, new=False), torch_logits(twin, tokens))


def test_adapters_that_ours_is_not_are_refused(tuned, seed, tmp_path):
    run, _, published = tuned
    base, folder = run.parent / "base", tmp_path / "adapter"
    peft_adapter(published, folder, seed)
    path = folder / "adapter_config.json"
    good = json.loads(path.read_text())
    for changes, says in (
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
        with pytest.raises(ConversionError, match=says):
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
    from converters import shards

    export_hf(scratch[0], tmp_path / "one")
    monkeypatch.setattr(shards.Shards.__init__, "__defaults__", ("model", 20_000))
    export_hf(scratch[0], tmp_path / "several")
    assert len(list((tmp_path / "several").glob("model-*.safetensors"))) > 2
    one, several = read_all(tmp_path / "one"), read_all(tmp_path / "several")
    assert one.keys() == several.keys()
    assert all(np.array_equal(one[name], several[name]) for name in one)
    transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "several")
