"""The tokenizer of an exported LLM, as transformers reads it."""

import json
import tempfile
from pathlib import Path

from converters import travel, vicuna
from converters.readers import ConversionError
from empatheia_jax.checkpoints.weights import is_weights
from empatheia_jax.config import LlamaConfig
from empatheia_jax.data.prompts.tokenizer import NEW_TOKENS


def load_run_tokenizer(run: Path, base: Path, llm: LlamaConfig):
    """Load the published tokenizer where the run's base has one, else the run's own."""
    from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

    if is_weights(base) and any((base / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        with tempfile.TemporaryDirectory() as folder:
            travel.copy_settings(base, Path(folder))
            (Path(folder) / "config.json").write_text(json.dumps(vicuna.export_settings(llm, {})))
            return AutoTokenizer.from_pretrained(folder)
    path = run / "tokenizer"
    settings = json.loads((path / "tokenizer_config.json").read_text())
    special = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token")}
    if (path / "tokenizer.model").exists():
        return LlamaTokenizer.from_pretrained(path, **special)
    return PreTrainedTokenizerFast(tokenizer_file=str(path / "tokenizer.json"), **special)


def special_token_ids(tokenizer) -> dict[str, int | None]:
    """Return bos_token_id, eos_token_id and pad_token_id, for config.json."""
    return {f"{name}_token_id": getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def add_new_tokens(tokenizer, size: int):
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
