"""LoRA adapters: PEFT's directories <-> our parameters.

An adapter belongs to the published base, so a PEFT directory holds LoRA alone. The 34 new tokens are stored beside it
in `new_tokens.safetensors`, which PEFT ignores and `python -m converters peft` reads.
"""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
from flax import nnx

from converters.outputs import new_folder, refuse_existing, save_safetensors
from converters.peft_settings import unknown_settings
from converters.readers import open_checkpoint, read_json
from converters.rules import Rule, fit, inverse_rules, linear
from converters.tensors import ConversionError
from converters.trained import TrainedCheck, warn
from converters.vicuna import block_name
from empatheia_jax.checkpoints.restore import adapter_architecture
from empatheia_jax.checkpoints.weights import Writer, is_weights, read_metadata, stored_arrays
from empatheia_jax.config import ConfigError, LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import PROJECTIONS, Llama

NEW_TOKENS_FILE = "new_tokens.safetensors"
ORIGIN_FILE = "empatheia.json"


def rules(lora: LoraConfig) -> list[Rule]:
    """Return the table of rules: PEFT's names for our adapters."""
    table = []
    for name in lora.targets:
        source = f"base_model.model.model.layers.{{layer}}.{block_name(name)}.{name}"
        inputs = 2 if name == "o_proj" else 1
        table += [
            Rule(f"{source}.lora_A.weight", f"layers/{name}/lora_a", linear(inputs)),
            Rule(f"{source}.lora_B.weight", f"layers/{name}/lora_b", linear()),
        ]
    return table


def adapter_arrays(llm: LlamaConfig, lora: LoraConfig) -> dict:
    """Return the adapters' arrays on disk (`weights.stored_arrays`)."""
    state = nnx.state(nnx.eval_shape(lambda: Llama(llm, lora, rngs=nnx.Rngs(0))), nnx.LoRAParam)
    return stored_arrays(state)


def export_settings(lora: LoraConfig, base: str) -> dict:
    """Return the contents of adapter_config.json; `base` is the name or the path of the base model."""
    return {
        "peft_type": "LORA",
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": lora.rank,
        "lora_alpha": lora.alpha,
        "lora_dropout": lora.dropout,
        "target_modules": list(lora.targets),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "init_lora_weights": True,
        "use_rslora": False,
        "use_dora": False,
        "modules_to_save": None,
        "layers_to_transform": None,
        "rank_pattern": {},
        "alpha_pattern": {},
    }


def parse_config(settings: dict) -> LoraConfig:
    """Convert the contents of adapter_config.json to our config.

    Raises:
      ConversionError: settings that our LoRA does not support, all of them.
    """
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type is {settings.get('peft_type')!r}, not 'LORA'")
    problems += unknown_settings(settings)
    targets, rank, alpha = settings.get("target_modules"), settings.get("r"), settings.get("lora_alpha")
    if targets == "all-linear":
        targets = list(PROJECTIONS)
    elif isinstance(targets, str):  # a regular expression over module names
        names = {name: f"model.layers.0.{block_name(name)}.{name}" for name in PROJECTIONS}
        targets = [name for name, module in names.items() if re.fullmatch(targets, module)]
    if isinstance(targets, list):  # names or paths; a layer without an adapter is reported as a missing tensor
        targets = sorted({str(target).rsplit(".", 1)[-1] for target in targets})
    if not isinstance(targets, list) or not targets or set(targets) - set(PROJECTIONS):
        problems.append(f"target_modules are {settings.get('target_modules')!r}; known are {', '.join(PROJECTIONS)}")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        problems.append(f"r is {rank!r} and lora_alpha {alpha!r}")
    if problems or targets is None or rank is None or alpha is None:
        raise ConversionError("adapter_config.json: " + "; ".join(problems))
    if settings.get("use_rslora"):
        alpha = alpha * rank**0.5  # rsLoRA scales by alpha / sqrt(r), ours by alpha / r
    ordered = tuple(name for name in PROJECTIONS if name in targets)
    try:
        return LoraConfig(rank=rank, alpha=float(alpha), dropout=settings.get("lora_dropout", 0.0), targets=ordered)
    except ConfigError as error:
        raise ConversionError(f"adapter_config.json: {error}") from error


def import_adapter(source: Path, base: Path, output: Path) -> dict[str, int]:
    """Convert a PEFT directory to a folder that `Config.adapter` names; `output` appears when all of it is written.

    Args:
      source: a directory with adapter_config.json; new tokens beside the adapter are converted too.
      base: the converted base that the adapter was trained on, or a run whose base was trained from scratch.
      output: a new folder.
    Returns:
      Counts of tensors and numbers written.
    Raises:
      ConversionError: an adapter that does not fit this base; the message lists everything that is wrong.
    """
    source, base, output = Path(source), Path(base), Path(output)
    refuse_existing(output, [("--input", source), ("--base", base)])
    llm, sha256 = _read_base(base)
    try:
        lora = parse_config(read_json(source / "adapter_config.json"))
    except ConversionError as error:
        raise ConversionError(f"{source}/{error}") from error
    origin = read_json(source / ORIGIN_FILE) if (source / ORIGIN_FILE).exists() else {}
    if sha256 and origin.get("base_sha256") not in (None, "", sha256):
        raise ConversionError(
            f"{source} was trained on {origin.get('base')} with hash {origin['base_sha256'][:16]}, {base} has another: "
            f"{sha256[:16]}"
        )
    tensors = open_checkpoint(source, ("adapter_model", "adapter_model"))
    fits = [(tensors, entry) for entry in fit(rules(lora), adapter_arrays(llm, lora), tensors)]
    new_tokens_path = source / NEW_TOKENS_FILE
    if new_tokens_path.exists():
        from empatheia_jax.llm.new_tokens import NEW_TOKEN_COUNT

        table = [Rule(name, f"new_tokens/{name}") for name in ("input", "output")]
        new_tokens = open_checkpoint(new_tokens_path)
        targets = {rule.target: (rule.target, None, (NEW_TOKEN_COUNT, llm.width)) for rule in table}
        fits += [(new_tokens, entry) for entry in fit(table, targets, new_tokens)]
    metadata = {"family": "peft", "architecture": adapter_architecture(lora), "source": {"folder": str(source)}}
    check = TrainedCheck(source)
    for checkpoint, entry in fits:
        for name in entry.sources:
            check.add(entry.name, checkpoint[name].read(), name)
    notes = check.finish()
    with new_folder(output) as partial, contextlib.closing(Writer(partial)) as writer:
        for checkpoint, entry in fits:
            writer.add(entry.name, entry.read(checkpoint).astype(np.float32))
        writer.finish(metadata)
    warn(source, notes)
    return {"tensors": len(fits), "numbers": sum(int(np.prod(entry.shape)) for _, entry in fits)}


def _read_base(base: Path) -> tuple[LlamaConfig, str]:
    """Return the LLM's config and the SHA-256 of a converted base, or of a run's base."""
    from empatheia_jax.checkpoints.runs import identify_base
    from empatheia_jax.checkpoints.workdir import saved_config
    from empatheia_jax.config.load import load_llm_config

    if is_weights(base):
        return load_llm_config(base), read_metadata(base)["sha256"]
    if (base / "base").exists():
        return saved_config(base).llm, identify_base(base / "base").sha256
    raise ConversionError(f"{base}: neither a converted base nor a run with a base of its own")


def write_adapter(
    folder: Path, lora: LoraConfig, llm: LlamaConfig, *, arrays: dict[str, np.ndarray], base: str
) -> None:
    """Write adapter_config.json and adapter_model.safetensors.

    Args:
      folder: an existing folder.
      lora: the adapter's config.
      llm: the base's config.
      arrays: the adapter's arrays by their names on disk.
      base: the base's published name or path, for PEFT.
    """
    inverse = inverse_rules(rules(lora), adapter_arrays(llm, lora))
    tensors = {tensor: form.invert(np.asarray(arrays[name], np.float32)) for name, (tensor, form) in inverse.items()}
    save_safetensors(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(export_settings(lora, base), indent=2))
