"""What a run may start from besides random values: a converted base, and an adapter trained elsewhere."""

from pathlib import Path

from flax import nnx

from empatheia_jax import weights
from empatheia_jax.config import Config, ConfigError
from empatheia_jax.training.step import trains


def check_base(config: Config) -> None:
    """See that `llm` is the architecture of the converted base, and `lora` that of the adapter.

    Raises:
      ConfigError: it is another, or there is no such base or adapter.
    """
    if config.adapter:
        _check_adapter(config)
    if config.base == "scratch":
        return
    if not Path(config.base).exists():
        raise ConfigError(f"base {config.base}: not there; `python -m converters vicuna` makes it from published ones")
    if weights.is_weights(config.base):
        found, ours = weights.read_facts(config.base)["architecture"], weights.architecture(config.llm)
        changed = [f"{n} {ours.get(n)} (there {found.get(n)})" for n in weights.changed_fields(found, ours)]
        if changed:
            raise ConfigError(
                f"base {config.base} is another LLM than the config's llm: {', '.join(changed)}; "
                "`llm_of(base)` of empatheia_jax.config_io gives the settings of a converted base"
            )


def _check_adapter(config: Config) -> None:
    if config.base == "scratch":
        raise ConfigError(f"adapter {config.adapter}: it belongs to a base, and base is 'scratch': name that one")
    if not weights.is_weights(config.adapter):
        raise ConfigError(f"adapter {config.adapter}: none there; `python -m converters peft` makes one of PEFT's")
    found, ours = weights.read_facts(config.adapter)["architecture"], adapter_facts(config.lora)
    if found != ours:
        raise ConfigError(f"adapter {config.adapter} is {found}, the config's lora is {ours}: make them agree")


def adapter_facts(lora) -> dict:
    """What of a `LoraConfig` an adapter's numbers belong to."""
    return {"family": "LoraConfig", "rank": lora.rank, "alpha": lora.alpha, "targets": sorted(lora.targets)}


def load_adapter(config: Config, state: nnx.State) -> nnx.State:
    """`state` with the LoRA of `config.adapter`, and with its rows of the new tokens where it has them.

    Raises:
      CheckpointError: an adapter of another LLM.
    """
    folder = Path(config.adapter)
    groups = ("lora", "rows") if "new_tokens/input" in weights.read_index(folder) else ("lora",)
    part = nnx.filter_state(state, trains(groups))
    return nnx.merge_state(state, weights.load_weights(folder, part, prefix="llm/"))
