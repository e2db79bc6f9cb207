"""Export a trained run to PEFT and transformers directories."""

import dataclasses
import json
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from converters import peft, vicuna
from converters.export_tokenizer import add_new_tokens, load_run_tokenizer, special_token_ids
from converters.outputs import new_folder
from converters.readers import ConversionError
from converters.rules import inverse_rules
from converters.shards import Shards, save_safetensors
from converters.source import abstract_parameters
from empatheia_jax.checkpoints.runs import Checkpoints, load_base
from empatheia_jax.checkpoints.weights import is_weights, read_arrays, read_metadata, stored_arrays, unstack_layers
from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS
from empatheia_jax.llm.quantized import Format, fake_quantize, kernel_formats
from empatheia_jax.model import sharding
from empatheia_jax.planning.local import config_widths
from empatheia_jax.training.loop import abstract_model, is_complete, saved_config
from empatheia_jax.training.stages import ADAPTED
from empatheia_jax.training.step import in_groups


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What an export needs of a run: adapters and new tokens of its newest checkpoint, and where its base is."""

    folder: Path
    config: Config  # with an unquantised base, as it is on disk
    step: int
    base: Path
    adapter: dict[str, np.ndarray]  # "layers/q_proj/lora_a/3" -> array
    new_tokens: dict[str, np.ndarray]  # "input", "output": [34, D]
    formats: dict[str, Format]  # "layers/q_proj/kernel" -> its quantised format; {} where the base is not quantised

    @property
    def base_name(self) -> str:
        """The base's published name, or its folder."""
        if is_weights(self.base):
            source = read_metadata(self.base)["source"]
            return source["config"].get("_name_or_path") or source["folder"]
        return str(self.base)


def read_run(run: Path) -> TrainedRun:
    """Read a run's adapters and new tokens, and nothing of its base.

    Raises:
      ConfigError: the folder holds no run.
      ConversionError: a run without a checkpoint after stage 0.
      CheckpointError: a checkpoint that does not fit the run's config.
    """
    run = Path(run)
    config = saved_config(run)
    quantized, config = config, dataclasses.replace(config, llm=dataclasses.replace(config.llm, quantization="none"))
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices("cpu")[:1])
    checkpoints = Checkpoints(run / "checkpoints")
    position = checkpoints.latest()
    if not is_complete(position):
        raise ConversionError(f"{run}: no checkpoint after stage 0 yet; train it first")
    _, state = abstract_model(config, config_widths(config), mesh)
    saved = checkpoints.load_params(position, nnx.filter_state(state, in_groups(ADAPTED)))
    checkpoints.close()
    adapter = dict(unstack_layers(nnx.filter_state(saved, in_groups(("lora",))), "llm/"))
    new_tokens = {name: np.asarray(saved["new_tokens"][name].get_value()) for name in ("input", "output")}
    base = run / "base" if config.base == "scratch" else Path(config.base)
    formats = kernel_formats(abstract_parameters(vicuna, quantized.llm))
    return TrainedRun(run, config, position.step, base, adapter, new_tokens, formats)


def _base_arrays(run: TrainedRun) -> Iterator[tuple[str, np.ndarray]]:
    """Yield the arrays of the run's base by their names on disk, layer by layer."""
    if is_weights(run.base):
        yield from read_arrays(run.base)
        return
    mesh = sharding.make_mesh(MeshConfig(data=1), jax.devices("cpu")[:1])  # a scratch base is small
    _, state = abstract_model(run.config, config_widths(run.config), mesh)
    base = nnx.filter_state(state, in_groups(("base",)))
    yield from unstack_layers(load_base(run.base, base), "llm/")


def export_hf(run: Path, output: Path, dtype: str | None = None) -> dict[str, int]:
    """Write a transformers directory of a run's LLM: adapters merged, new tokens in tokenizer, embedding and head.

    Adapters trained over a quantised base are merged into the rounded kernels that it computes with. Embedding and head
    are two tables even where the base ties them: the new tokens differ in the two. Token ids are those of the run.

    Args:
      run: the run's folder.
      output: a new folder.
      dtype: "float32", "bfloat16" or "float16" for all tensors; None keeps the base's (merging in bfloat16 rounds the
        adapters).
    Returns:
      Counts of tensors and bytes written.
    Raises:
      ConversionError: a run without a finished stage.
      ConversionError: an output that exists already.
      QuantizationError: a quantised base, and qwix is not installed.
    """
    trained = read_run(run)
    llm, scale = trained.config.llm, trained.config.lora.alpha / trained.config.lora.rank
    table = vicuna.rules(dataclasses.replace(llm, tie_embeddings=False))
    untied = dataclasses.replace(llm, tie_embeddings=False, vocab_size=llm.vocab_size + len(NEW_TOKENS))
    inverse = inverse_rules(table, stored_arrays(abstract_parameters(vicuna, untied)))
    with Shards(output) as shards:
        embedding_dtype = None
        for name, array in _base_arrays(trained):
            output_dtype = np.dtype(dtype or array.dtype)
            kernel_format = trained.formats.get(name.rpartition("/")[0])
            array = array if kernel_format is None else fake_quantize(array, kernel_format)
            embedding_dtype = output_dtype.name if name == "embedding" else embedding_dtype
            array = _merge_adapter(name, array, trained.adapter, scale).astype(output_dtype)
            shards.add(inverse[name][0], inverse[name][1].invert(_append_new_tokens(name, array, trained.new_tokens)))
            if name == "embedding" and llm.tie_embeddings:
                shards.add("lm_head.weight", np.concatenate([array, trained.new_tokens["output"].astype(output_dtype)]))
        tokenizer = add_new_tokens(load_run_tokenizer(trained.folder, trained.base, llm), llm.vocab_size)
        tokenizer.save_pretrained(shards.folder)
        dtypes = dict.fromkeys(("dtype", "torch_dtype"), embedding_dtype)
        settings = vicuna.export_settings(untied, special_token_ids(tokenizer)) | dtypes
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
    return {"tensors": len(inverse), "bytes": shards.total}


def _merge_adapter(name: str, array: np.ndarray, adapter: dict[str, np.ndarray], scale: float) -> np.ndarray:
    """Return kernel + (alpha / r) A B in float32 where the kernel has an adapter, else `array`."""
    module, leaf, layer = (name.rsplit("/", 2) + ["", ""])[:3]
    if leaf != "kernel" or f"{module}/lora_a/{layer}" not in adapter:
        return array
    a, b = adapter[f"{module}/lora_a/{layer}"], adapter[f"{module}/lora_b/{layer}"]
    return array.astype(np.float32) + scale * np.tensordot(a, b, axes=1)


def _append_new_tokens(name: str, array: np.ndarray, new_tokens: dict[str, np.ndarray]) -> np.ndarray:
    if name == "embedding":
        return np.concatenate([array, new_tokens["input"].astype(array.dtype)])
    if name == "head":
        return np.concatenate([array, new_tokens["output"].T.astype(array.dtype)], axis=1)
    return array


def export_peft(run: Path, output: Path) -> dict[str, int]:
    """Write a PEFT directory for a run's published base; a base trained from scratch is written beside it as `base/`.

    Args:
      run: the run's folder.
      output: a new folder.
    Returns:
      Counts of the adapter's tensors and bytes.
    Raises:
      ConversionError: a run without a finished stage.
      ConversionError: an output that exists already.
    """
    trained = read_run(run)
    config, output, base = trained.config, Path(output), trained.base_name
    # A scratch base is exported too and gets a hash of its own when it is converted: none to record here.
    sha256 = read_metadata(trained.base)["sha256"] if is_weights(trained.base) else ""
    origin = {"base": trained.base_name, "base_sha256": sha256, "run": str(run), "step": trained.step}
    with new_folder(output) as partial:
        if not is_weights(trained.base):
            _export_scratch_base(trained, partial / "base")
            base = str((output / "base").absolute())
        peft.write_adapter(partial, config.lora, config.llm, arrays=trained.adapter, base=base)
        save_safetensors(trained.new_tokens, partial / peft.NEW_TOKENS_FILE)
        (partial / peft.ORIGIN_FILE).write_text(json.dumps(origin, indent=2))
    return {"tensors": len(trained.adapter), "bytes": sum(array.nbytes for array in trained.adapter.values())}


def _export_scratch_base(trained: TrainedRun, output: Path) -> None:
    llm = trained.config.llm
    inverse = inverse_rules(vicuna.rules(llm), stored_arrays(abstract_parameters(vicuna, llm)))
    with Shards(output) as shards:
        embedding_dtype = "float32"
        for name, array in _base_arrays(trained):
            embedding_dtype = array.dtype.name if name == "embedding" else embedding_dtype
            shards.add(inverse[name][0], inverse[name][1].invert(array))
        tokenizer = load_run_tokenizer(trained.folder, trained.base, llm)
        tokenizer.save_pretrained(shards.folder)
        dtypes = dict.fromkeys(("dtype", "torch_dtype"), embedding_dtype)
        settings = vicuna.export_settings(llm, special_token_ids(tokenizer)) | dtypes
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
