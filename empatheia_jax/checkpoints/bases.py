"""What a run may start from besides random values: a converted base, and an adapter trained elsewhere."""

from pathlib import Path

from flax import nnx

from empatheia_jax.checkpoints import weights
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.training.step import in_groups


def check_base(config: Config) -> None:
    """Check that `llm` is the architecture of the converted base, and `lora` that of the adapter.

    Raises:
      ConfigError: the architectures differ, or there is no such base or adapter.
    """
    if config.adapter:
        _check_adapter(config)
    if config.base == "scratch":
        return
    if not Path(config.base).exists():
        raise ConfigError(f"base {config.base}: not there; `python -m converters vicuna` makes it from published ones")
    if weights.is_weights(config.base):
        saved, expected = weights.read_metadata(config.base)["architecture"], weights.architecture(config.llm)
        differences = [
            f"{n} {expected.get(n)} (there {saved.get(n)})" for n in weights.differing_fields(saved, expected)
        ]
        if differences:
            raise ConfigError(
                f"base {config.base} is another LLM than the config's llm: {', '.join(differences)}; "
                "`load_llm_config(base)` of empatheia_jax.config.load gives the settings of a converted base"
            )


def _check_adapter(config: Config) -> None:
    if config.base == "scratch":
        raise ConfigError(f"adapter {config.adapter}: it belongs to a base, and base is 'scratch': name that one")
    if not weights.is_weights(config.adapter):
        raise ConfigError(f"adapter {config.adapter}: none there; `python -m converters peft` makes one of PEFT's")
    saved, expected = weights.read_metadata(config.adapter)["architecture"], adapter_architecture(config.lora)
    if saved != expected:
        raise ConfigError(f"adapter {config.adapter} is {saved}, the config's lora is {expected}: make them agree")


def adapter_architecture(lora) -> dict:
    """Return the fields of a `LoraConfig` that determine an adapter's parameters and arithmetic, as JSON values."""
    return {"family": "LoraConfig", "rank": lora.rank, "alpha": lora.alpha, "targets": sorted(lora.targets)}


def load_adapter(config: Config, state: nnx.State) -> nnx.State:
    """Return `state` with the LoRA of `config.adapter`, and with its new tokens where it has them.

    Raises:
      CheckpointError: the adapter is of another LLM.
    """
    folder = Path(config.adapter)
    groups = ("lora", "new_tokens") if "new_tokens/input" in weights.read_index(folder) else ("lora",)
    adapted = nnx.filter_state(state, in_groups(groups))
    return nnx.merge_state(state, weights.load_weights(folder, adapted, prefix="llm/"))
