"""Which settings of adapter_config.json our LoRA understands: all others must be at PEFT's defaults.

What is not known is refused by name, so what a later PEFT adds is refused too, until somebody has looked at it.
"""

from typing import Any

DEFAULTS: dict[str, Any] = {
    # What an adapter is; `peft.parse_config` reads these.
    "peft_type": None,
    "task_type": None,
    "r": 8,
    "lora_alpha": 8,
    "lora_dropout": 0.0,
    "use_rslora": False,
    "target_modules": None,
    "init_lora_weights": True,
    # Where it is from.
    "peft_version": None,
    "auto_mapping": None,
    "base_model_name_or_path": None,
    "revision": None,
    "inference_mode": False,
    # What has no counterpart here.
    "alora_invocation_tokens": None,
    "alpha_pattern": {},
    "arrow_config": None,
    "bias": "none",
    "corda_config": None,
    "ensure_weight_tying": False,
    "eva_config": None,
    "exclude_modules": None,
    "fan_in_fan_out": False,
    "kasa_config": None,
    "layer_replication": None,
    "layers_pattern": None,
    "layers_to_transform": None,
    "loftq_config": {},
    "lora_bias": False,
    "lora_ga_config": None,
    "megatron_config": None,
    "megatron_core": "megatron.core",
    "modules_to_save": None,
    "monteclora_config": None,
    "qalora_group_size": 16,
    "rank_pattern": {},
    "runtime_config": {"ephemeral_gpu_offload": False},
    "target_parameters": None,
    "trainable_token_indices": None,
    "use_bdlora": None,
    "use_dora": False,
    "use_qalora": False,
    "velora_config": None,
}
"""Every setting of PEFT's LoraConfig -> its default, as of PEFT 0.21."""

_READ = ("peft_type", "r", "lora_alpha", "lora_dropout", "target_modules")
_ORIGIN = ("peft_version", "auto_mapping", "base_model_name_or_path", "revision", "inference_mode")
_UNDERSTOOD: dict[str, tuple] = {
    "task_type": (None, "CAUSAL_LM"),
    "use_rslora": (False, True),
    # Those that leave the base as it is. The others subtract from it what the adapter begins with (PiSSA, OLoRA, CorDA,
    # LoRA-GA), quantise it (LoftQ), or have not been looked at.
    "init_lora_weights": (True, False, "gaussian", "orthogonal"),
}
_REASONS = {
    "init_lora_weights": " (others may belong to a changed base: save the adapter with PEFT's "
    "path_initial_model_for_weight_conversion, which makes it one of the published base)",
}


def unknown_settings(settings: dict) -> list[str]:
    """Return a sentence for every setting that our LoRA would get wrong.

    Args:
      settings: the contents of adapter_config.json.
    """
    problems = []
    for name, value in settings.items():
        if name in _READ or name in _ORIGIN or _is_default(value, DEFAULTS.get(name)):
            continue
        understood = _UNDERSTOOD.get(name, (DEFAULTS[name],) if name in DEFAULTS else ())
        if any(value == choice and type(value) is type(choice) for choice in understood):
            continue
        shown = repr(value) if len(repr(value)) <= 80 else f"{repr(value)[:80]}..."
        if not understood:
            problems.append(f"{name} is {shown}, a setting that is not known")
        else:
            choices = " or ".join(map(repr, understood))
            problems.append(f"{name} is {shown}; only {choices} is known{_REASONS.get(name, '')}")
    return problems


def _is_default(value, default) -> bool:
    """Tell whether a setting is at its default, is null, or, where its default is not known or null, is off."""
    if value is None or (value == default and isinstance(value, bool) == isinstance(default, bool)):
        return True
    return not default and (value is False or (isinstance(value, list | dict | str) and not value))
