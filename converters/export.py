"""The way back: converted weights, or a trained run -> directories for transformers and PEFT."""

import dataclasses
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from safetensors.numpy import load_file

from converters import companion_files, peft, vicuna
from converters.convert import CARRIED_FILE, FAMILIES
from converters.outputs import Shards, new_folder, refuse_existing, save_safetensors
from converters.tensors import ConversionError
from converters.trained import TrainedCheck, warn
from empatheia_jax.checkpoints.named_arrays import named_arrays
from empatheia_jax.checkpoints.restore import base_folder, is_complete
from empatheia_jax.checkpoints.runs import Checkpoints, load_base
from empatheia_jax.checkpoints.weights import is_weights, read_arrays, read_metadata, unstack_layers
from empatheia_jax.checkpoints.workdir import saved_config
from empatheia_jax.config import Config, LlamaConfig, MeshConfig
from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS
from empatheia_jax.llm.quantized import Format, fake_quantize, kernel_formats
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.planning.local import config_widths


def export_weights(weights: Path, output: Path) -> dict[str, int]:
    """Write the transformers directory that converted weights came from, its tensors bit for bit.

    The vision tower of a whole CLIP comes back as a CLIPVisionModel; task heads are not kept.

    Args:
      weights: a converted folder of a transformers family.
      output: a new folder.
    Returns:
      Counts of tensors and bytes written.
    Raises:
      ConversionError: no converted weights of a transformers family.
      ConversionError: an output that exists already.
    """
    weights = Path(weights)
    refuse_existing(Path(output), [("--weights", weights)])
    metadata = read_metadata(weights)
    if metadata.get("family") not in FAMILIES:
        raise ConversionError(
            f"{weights}: weights of family {metadata.get('family')!r}; those of {', '.join(FAMILIES)} can be exported"
        )
    table, settings = FAMILIES[metadata["family"]], metadata["source"]["config"]
    config = table.parse_config(settings, None)
    prefix = vicuna.PREFIX if table is vicuna.FAMILY else ""
    inverse = table.inverse(config, prefix)
    settings = settings.get("vision_config", settings) | {"architectures": [table.model_class]}
    settings["model_type"] = table.model_types[-1] if table is not vicuna.FAMILY else settings["model_type"]
    check = TrainedCheck(weights)
    with Shards(output) as shards:
        for name, array in read_arrays(weights):
            source, transform = inverse[name]
            check.add(name, array)
            shards.add(source, transform.invert(array))
        notes = check.finish()
        if (weights / CARRIED_FILE).exists():
            for name, array in load_file(weights / CARRIED_FILE).items():
                shards.add(f"{prefix}{name}", array)
        (shards.folder / "config.json").write_text(json.dumps(settings, indent=2))
        companion_files.copy_settings(weights, shards.folder)
    warn(weights, notes)
    return {"tensors": len(inverse), "bytes": shards.total}


# A run ----------------------------------------------------------------------------------------------------------------


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
    if position is None or not is_complete(position):
        raise ConversionError(f"{run}: no checkpoint after stage 0 yet; train it first")
    _, state = abstract_model(config, config_widths(config), mesh)
    saved = checkpoints.load_params(position, nnx.filter_state(state, in_groups(ADAPTED)))
    checkpoints.close()
    adapter = dict(unstack_layers(nnx.filter_state(saved, in_groups(("lora",))), "llm/"))
    arrays = named_arrays(saved)
    new_tokens = {name: np.asarray(arrays[f"new_tokens/{name}"]) for name in ("input", "output")}
    formats = kernel_formats(vicuna.FAMILY.parameters(quantized.llm))
    return TrainedRun(run, config, position.step, base_folder(run, config), adapter, new_tokens, formats)


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
    refuse_existing(Path(output), [("--run", run)])
    trained = read_run(run)
    check = TrainedCheck(run)
    for name, array in trained.adapter.items():
        check.add(name, array)
    llm, scale = trained.config.llm, trained.config.lora.alpha / trained.config.lora.rank
    untied = dataclasses.replace(llm, tie_embeddings=False, vocab_size=llm.vocab_size + len(NEW_TOKENS))
    inverse = vicuna.FAMILY.inverse(untied, vicuna.PREFIX)
    with Shards(output) as shards:
        embedding_dtype = None
        for name, array in _base_arrays(trained):
            output_dtype = np.dtype(dtype or array.dtype)
            check.add(name, array)
            kernel_format = trained.formats.get(name.rpartition("/")[0])
            array = array if kernel_format is None else fake_quantize(array, kernel_format)
            embedding_dtype = output_dtype.name if name == "embedding" else embedding_dtype
            array = _merge_adapter(name, array, trained.adapter, scale).astype(output_dtype)
            shards.add(inverse[name][0], inverse[name][1].invert(_append_new_tokens(name, array, trained.new_tokens)))
            if name == "embedding" and llm.tie_embeddings:
                shards.add("lm_head.weight", np.concatenate([array, trained.new_tokens["output"].astype(output_dtype)]))
        notes = check.finish()
        tokenizer = _add_new_tokens(_load_run_tokenizer(trained.folder, trained.base, llm), llm.vocab_size)
        _write_settings(shards.folder, untied, tokenizer, embedding_dtype)
    warn(run, notes)
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
    refuse_existing(Path(output), [("--run", run)])
    trained = read_run(run)
    check = TrainedCheck(run)
    for name, array in trained.adapter.items():
        check.add(name, array)
    notes = check.finish()
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
    warn(run, notes)
    return {"tensors": len(trained.adapter), "bytes": sum(array.nbytes for array in trained.adapter.values())}


def _export_scratch_base(trained: TrainedRun, output: Path) -> None:
    llm = trained.config.llm
    inverse = vicuna.FAMILY.inverse(llm, vicuna.PREFIX)
    with Shards(output) as shards:
        embedding_dtype = "float32"
        for name, array in _base_arrays(trained):
            embedding_dtype = array.dtype.name if name == "embedding" else embedding_dtype
            shards.add(inverse[name][0], inverse[name][1].invert(array))
        tokenizer = _load_run_tokenizer(trained.folder, trained.base, llm)
        _write_settings(shards.folder, llm, tokenizer, embedding_dtype)


# A run's tokenizer ----------------------------------------------------------------------------------------------------


def _load_run_tokenizer(run: Path, base: Path, llm: LlamaConfig):
    """Load the published tokenizer where the run's base has one, else the run's own."""
    from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

    if is_weights(base) and any((base / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        with tempfile.TemporaryDirectory() as folder:
            companion_files.copy_settings(base, Path(folder))
            (Path(folder) / "config.json").write_text(json.dumps(vicuna.export_settings(llm, {})))
            return AutoTokenizer.from_pretrained(folder)
    path = run / "tokenizer"
    settings = json.loads((path / "tokenizer_config.json").read_text("utf-8"))
    special = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token")}
    if (path / "tokenizer.model").exists():
        return LlamaTokenizer.from_pretrained(path, **special)
    return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), **special)


def _write_settings(folder: Path, llm: LlamaConfig, tokenizer, dtype: str | None) -> None:
    """Write the tokenizer and config.json; `dtype` is that of the tensors."""
    tokenizer.save_pretrained(folder)
    tokens = {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}
    settings = vicuna.export_settings(llm, tokens) | dict.fromkeys(("dtype", "torch_dtype"), dtype)
    (folder / "config.json").write_text(json.dumps(settings, indent=2))


def _add_new_tokens(tokenizer, size: int):
    """Add the 34 new tokens with the ids they have in the run.

    Args:
      tokenizer: transformers' tokenizer of the base; changed in place.
      size: rows of the base's embedding; the new tokens' ids follow.
    Returns:
      The tokenizer.
    Raises:
      ConversionError: the tokenizer gives the tokens other ids.
    """
    from transformers import AddedToken

    # The embedding may have more rows than the tokenizer has tokens; fill up, or the new tokens would get lower ids.
    tokenizer.add_tokens([f"<unused_{index}>" for index in range(len(tokenizer), size)])
    tokenizer.add_tokens(
        [AddedToken(token, special=True, normalized=False) for token in NEW_TOKENS], special_tokens=True
    )
    ids = tokenizer.convert_tokens_to_ids(list(NEW_TOKENS))
    if ids != list(range(size, size + len(NEW_TOKENS))):
        raise ConversionError(f"the tokenizer gives the new tokens ids {ids[:3]} and on, the model {size} and on")
    return tokenizer
