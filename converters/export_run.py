"""A trained run -> PEFT and transformers directories."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from converters import peft, vicuna
from converters.export_tokenizer import run_tokenizer, special_ids, with_new_tokens
from converters.outputs import fresh
from converters.readers import ConversionError
from converters.rules import sources
from converters.shards import Shards, save
from converters.source import abstract
from empatheia_jax import sharding
from empatheia_jax.checkpoint import Checkpoints, load_base
from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.data.tokenizer import NEW_TOKENS
from empatheia_jax.llm.quantized import Format, formats, rounded
from empatheia_jax.plan import config_widths
from empatheia_jax.training.run import abstract_model, complete, saved_config
from empatheia_jax.training.stages import ADAPTED
from empatheia_jax.training.step import trains
from empatheia_jax.weights import is_weights, read_arrays, read_facts, slots, unstacked


@dataclasses.dataclass(frozen=True)
class Trained:
    """What an export needs of a run: its newest checkpoint's adapters and rows, and where its base is."""

    folder: Path
    config: Config  # with a plain base: what is quantised here is not on disk
    step: int
    base: Path
    adapter: dict[str, np.ndarray]  # "layers/q_proj/lora_a/3" -> array
    rows: dict[str, np.ndarray]  # "input", "output": [34, D]
    formats: dict[str, Format]  # "layers/q_proj/kernel" -> how the run holds it; {} where plain

    @property
    def name(self) -> str:
        """What the base is called for people and PEFT."""
        if is_weights(self.base):
            source = read_facts(self.base)["source"]
            return source["config"].get("_name_or_path") or source["folder"]
        return str(self.base)


def open_run(run: Path) -> Trained:
    """Read a run's adapters and new rows, and nothing of its base.

    Raises:
      ConfigError: no run. ConversionError: no checkpoint after stage 0. CheckpointError: one that does not fit.
    """
    run = Path(run)
    config = saved_config(run)
    quantized, config = config, dataclasses.replace(config, llm=dataclasses.replace(config.llm, quantization="none"))
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices("cpu")[:1])
    checkpoints = Checkpoints(run / "checkpoints")
    position = checkpoints.latest()
    if not complete(position):
        raise ConversionError(f"{run}: no checkpoint after stage 0 yet; train it first")
    _, state = abstract_model(config, config_widths(config), mesh)
    saved = checkpoints.load_params(position, nnx.filter_state(state, trains(ADAPTED)))
    checkpoints.close()
    adapter = dict(unstacked(nnx.filter_state(saved, trains(("lora",))), "llm/"))
    rows = {name: np.asarray(saved["new_tokens"][name].get_value()) for name in ("input", "output")}
    base = run / "base" if config.base == "scratch" else Path(config.base)
    return Trained(run, config, position.step, base, adapter, rows, formats(abstract(vicuna, quantized.llm)))


def _base_arrays(run: Trained) -> Iterator[tuple[str, np.ndarray]]:
    """The base, an array a layer."""
    if is_weights(run.base):
        yield from read_arrays(run.base)
        return
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices("cpu")[:1])  # stage 0's: small by nature
    _, state = abstract_model(run.config, config_widths(run.config), mesh)
    base = nnx.filter_state(state, trains(("base",)))
    yield from unstacked(load_base(run.base, base), "llm/")


def export_hf(run: Path, output: Path, dtype: str | None = None) -> dict[str, int]:
    """A run -> a transformers directory of its LLM: adapters merged, new tokens in tokenizer, embedding and head.

    Over a quantised base they are merged into what it computes with, as they were trained.

    Embedding and head are two tables in it even where the base ties them: the new tokens' rows differ. An id is the one
    it is here.

    Args:
      dtype: of all tensors; None keeps the base's (merging in bfloat16 rounds what was trained).
    Raises:
      ConversionError: no finished stage; an output that is there already.
      QuantizationError: a quantised base, and no qwix here.
    """
    trained = open_run(run)
    llm, scale = trained.config.llm, trained.config.lora.alpha / trained.config.lora.rank
    table = vicuna.rules(dataclasses.replace(llm, tie_embeddings=False))
    untied = dataclasses.replace(llm, tie_embeddings=False, vocab_size=llm.vocab_size + len(NEW_TOKENS))
    back = sources(table, slots(abstract(vicuna, untied)))
    with Shards(output) as shards:
        kind = None
        for name, array in _base_arrays(trained):
            kept = np.dtype(dtype or array.dtype)
            form = trained.formats.get(name.rpartition("/")[0])
            array = array if form is None else rounded(array, form)
            kind = kept.name if name == "embedding" else kind
            array = _merged(name, array, trained.adapter, scale).astype(kept)
            shards.add(back[name][0], back[name][1].invert(_with_new_rows(name, array, trained.rows)))
            if name == "embedding" and llm.tie_embeddings:
                shards.add("lm_head.weight", np.concatenate([array, trained.rows["output"].astype(kept)]))
        words = with_new_tokens(run_tokenizer(trained.folder, trained.base, llm), llm.vocab_size)
        words.save_pretrained(shards.folder)
        tokens = special_ids(words)
        settings = vicuna.settings_of(untied, tokens) | {"dtype": kind, "torch_dtype": kind}
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
    return {"tensors": len(back), "bytes": shards.total}


def _merged(name: str, array: np.ndarray, adapter: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """kernel + (alpha / r) A B in float32, where the kernel has an adapter."""
    where, kernel, layer = (name.rsplit("/", 2) + ["", ""])[:3]
    if kernel != "kernel" or f"{where}/lora_a/{layer}" not in adapter:
        return array
    a, b = adapter[f"{where}/lora_a/{layer}"], adapter[f"{where}/lora_b/{layer}"]
    return array.astype(np.float32) + scale * np.tensordot(a, b, axes=1)


def _with_new_rows(name: str, array: np.ndarray, rows: dict[str, np.ndarray]) -> np.ndarray:
    if name == "embedding":
        return np.concatenate([array, rows["input"].astype(array.dtype)])
    if name == "head":
        return np.concatenate([array, rows["output"].T.astype(array.dtype)], axis=1)
    return array


def export_peft(run: Path, output: Path) -> dict[str, int]:
    """A run -> a PEFT directory for its base as it was published; a scratch base is written into it, as `base/`.

    Raises:
      ConversionError: no finished stage; an output that is there already.
    """
    trained = open_run(run)
    config, output, base = trained.config, Path(output), trained.name
    # A scratch base goes along; converted, it gets a hash of its own.
    sha256 = read_facts(trained.base)["sha256"] if is_weights(trained.base) else ""
    origin = {"base": trained.name, "base_sha256": sha256, "run": str(run), "step": trained.step}
    with fresh(output) as partial:
        if not is_weights(trained.base):
            _export_scratch_base(trained, partial / "base")
            base = str((output / "base").absolute())
        peft.write_adapter(partial, config.lora, config.llm, trained.adapter, base)
        save(trained.rows, partial / peft.NEW_TOKENS_FILE)
        (partial / peft.ORIGIN_FILE).write_text(json.dumps(origin, indent=2))
    return {"tensors": len(trained.adapter), "bytes": sum(array.nbytes for array in trained.adapter.values())}


def _export_scratch_base(trained: Trained, output: Path) -> None:
    llm = trained.config.llm
    back = sources(vicuna.rules(llm), slots(abstract(vicuna, llm)))
    with Shards(output) as shards:
        kind = "float32"
        for name, array in _base_arrays(trained):
            kind = array.dtype.name if name == "embedding" else kind
            shards.add(back[name][0], back[name][1].invert(array))
        words = run_tokenizer(trained.folder, trained.base, llm)
        words.save_pretrained(shards.folder)
        settings = vicuna.settings_of(llm, special_ids(words)) | {"dtype": kind, "torch_dtype": kind}
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
