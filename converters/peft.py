"""LoRA adapters between our parameters and PEFT's directories.

An adapter belongs to the published base as it is, so a PEFT directory holds LoRA alone. The rows of our 34 new tokens
lie beside it in `new_tokens.safetensors`: PEFT does not read them, `python -m converters peft` does.
"""

import contextlib
import json
import re
from pathlib import Path

import numpy as np
from flax import nnx

from converters.outputs import fresh, refuse_existing
from converters.readers import ConversionError, open_checkpoint, read_json
from converters.rules import Rule, fit, linear
from converters.shards import save
from converters.vicuna import block_of
from empatheia_jax.config import ConfigError, LlamaConfig, LoraConfig
from empatheia_jax.llm.llama import PROJECTIONS, Llama
from empatheia_jax.training.bases import adapter_facts
from empatheia_jax.weights import Writer, is_weights, read_facts, slots

NEW_TOKENS_FILE = "new_tokens.safetensors"
ORIGIN_FILE = "empatheia.json"
_REFUSED = {
    "use_dora": False,
    "bias": "none",
    "fan_in_fan_out": False,
    "modules_to_save": None,
    "layers_to_transform": None,
    "rank_pattern": {},
    "alpha_pattern": {},
    "lora_bias": False,
    "trainable_token_indices": None,
    "use_qalora": False,
    "layer_replication": None,
    "exclude_modules": None,
}


def rules(lora: LoraConfig) -> list[Rule]:
    """PEFT's names for our adapters."""
    table = []
    for name in lora.targets:
        source = f"base_model.model.model.layers.{{layer}}.{block_of(name)}.{name}"
        inputs = 2 if name == "o_proj" else 1
        table += [
            Rule(f"{source}.lora_A.weight", f"layers/{name}/lora_a", linear(inputs)),
            Rule(f"{source}.lora_B.weight", f"layers/{name}/lora_b", linear()),
        ]
    return table


def adapter_slots(llm: LlamaConfig, lora: LoraConfig) -> dict:
    """The adapters' arrays on disk (`weights.slots`)."""
    state = nnx.state(nnx.eval_shape(lambda: Llama(llm, lora, rngs=nnx.Rngs(0))), nnx.LoRAParam)
    return slots(state)


def settings_of(lora: LoraConfig, base: str) -> dict:
    """adapter_config.json."""
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


def config_of(settings: dict) -> LoraConfig:
    """adapter_config.json -> ours.

    Raises:
      ConversionError: everything in it that our LoRA does otherwise.
    """
    problems = []
    if settings.get("peft_type") != "LORA":
        problems.append(f"peft_type is {settings.get('peft_type')!r}, not 'LORA'")
    for name, wanted in _REFUSED.items():
        if (settings.get(name) or wanted) != wanted:
            problems.append(f"{name} is {settings[name]!r}; only {wanted!r} is known")
    targets, rank, alpha = settings.get("target_modules"), settings.get("r"), settings.get("lora_alpha")
    if targets == "all-linear":
        targets = list(PROJECTIONS)
    elif isinstance(targets, str):  # a regular expression over module names
        names = {name: f"model.layers.0.{block_of(name)}.{name}" for name in PROJECTIONS}
        targets = [name for name, module in names.items() if re.fullmatch(targets, module)]
    if isinstance(targets, list):  # perhaps whole paths, a layer each: a layer that lacks one is a missing tensor
        targets = sorted({str(target).rsplit(".", 1)[-1] for target in targets})
    if not isinstance(targets, list) or not targets or set(targets) - set(PROJECTIONS):
        problems.append(f"target_modules are {settings.get('target_modules')!r}; known are {', '.join(PROJECTIONS)}")
    if not isinstance(rank, int) or not isinstance(alpha, int | float):
        problems.append(f"r is {rank!r} and lora_alpha {alpha!r}")
    if problems:
        raise ConversionError("adapter_config.json: " + "; ".join(problems))
    if settings.get("use_rslora"):
        alpha = alpha * rank**0.5  # alpha / sqrt(r), as alpha / r
    ordered = tuple(name for name in PROJECTIONS if name in targets)
    try:
        return LoraConfig(rank=rank, alpha=float(alpha), dropout=settings.get("lora_dropout", 0.0), targets=ordered)
    except ConfigError as error:
        raise ConversionError(f"adapter_config.json: {error}") from error


def import_adapter(source: Path, base: Path, output: Path) -> dict[str, int]:
    """A PEFT directory -> a folder that `Config.adapter` names; `output` appears when all is written.

    Args:
      base: the converted base that the adapter was trained on, or a run with a base of its own.
    Returns:
      counts of tensors and numbers, and the rows of new tokens where they lie beside.
    Raises:
      ConversionError: an adapter that does not fit this base, with everything that is wrong.
    """
    source, base, output = Path(source), Path(base), Path(output)
    refuse_existing(output)
    llm, sha256 = _base_of(base)
    try:
        lora = config_of(read_json(source / "adapter_config.json"))
    except ConversionError as error:
        raise ConversionError(f"{source}/{error}") from error
    origin = read_json(source / ORIGIN_FILE) if (source / ORIGIN_FILE).exists() else {}
    if sha256 and origin.get("base_sha256") not in (None, "", sha256):
        raise ConversionError(
            f"{source} was trained on {origin.get('base')} with hash {origin['base_sha256'][:16]}, {base} has another: "
            f"{sha256[:16]}"
        )
    tensors = open_checkpoint(source, ("adapter_model", "adapter_model"))
    arrays = adapter_slots(llm, lora)
    found = [(tensors, one) for one in fit(rules(lora), arrays, tensors)]
    rows = source / NEW_TOKENS_FILE
    if rows.exists():
        from empatheia_jax.llm.new_tokens import COUNT

        new = {f"new_tokens/{name}": (f"new_tokens/{name}", None, (COUNT, llm.width)) for name in ("input", "output")}
        theirs = open_checkpoint(rows)
        found += [(theirs, one) for one in fit([Rule(n.split("/")[1], n) for n in new], new, theirs)]
    facts = {"family": "peft", "architecture": adapter_facts(lora), "source": {"folder": str(source)}}
    with fresh(output) as partial, contextlib.closing(Writer(partial)) as writer:
        for there, one in found:
            writer.add(one.name, one.read(there).astype(np.float32))
        writer.finish(facts)
    return {"tensors": len(found), "numbers": sum(int(np.prod(one.shape)) for _, one in found)}


def _base_of(base: Path) -> tuple[LlamaConfig, str]:
    """(LLM settings, hash) of a converted base or of a run."""
    from empatheia_jax.checkpoint import identify_base
    from empatheia_jax.config_io import llm_of
    from empatheia_jax.training.run import saved_config

    if is_weights(base):
        return llm_of(base), read_facts(base)["sha256"]
    if (base / "base").exists():
        return saved_config(base).llm, identify_base(base / "base").sha256
    raise ConversionError(f"{base}: neither a converted base nor a run with a base of its own")


def write_adapter(folder: Path, lora: LoraConfig, llm: LlamaConfig, tree: dict[str, np.ndarray], base: str) -> None:
    """adapter_config.json and adapter_model.safetensors; `tree` has our arrays by their names on disk."""
    first = {rule.target: rule for rule in rules(lora)}
    tensors = {}
    for name, (target, layer, _) in adapter_slots(llm, lora).items():
        rule = first[target]
        tensors[rule.names(layer)[0]] = rule.transform.invert(np.asarray(tree[name], np.float32))
    save(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(json.dumps(settings_of(lora, base), indent=2))
