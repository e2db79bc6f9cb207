"""The tokenizer that goes with an exported LLM, as transformers reads it."""

import json
import tempfile
from pathlib import Path

from converters import travel, vicuna
from converters.readers import ConversionError
from empatheia_jax.config import LlamaConfig
from empatheia_jax.data.tokenizer import NEW_TOKENS
from empatheia_jax.weights import is_weights


def run_tokenizer(run: Path, base: Path, llm: LlamaConfig):
    """A run's tokenizer: the published one where its base has it, else the run's own."""
    from transformers import AutoTokenizer, LlamaTokenizer, PreTrainedTokenizerFast

    if is_weights(base) and any((base / name).exists() for name in ("tokenizer.json", "tokenizer.model")):
        with tempfile.TemporaryDirectory() as folder:
            travel.copy(base, Path(folder))
            (Path(folder) / "config.json").write_text(json.dumps(vicuna.settings_of(llm, {})))
            return AutoTokenizer.from_pretrained(folder)
    place = run / "tokenizer"
    settings = json.loads((place / "tokenizer_config.json").read_text())
    special = {name: settings[name] for name in ("bos_token", "eos_token", "pad_token")}
    if (place / "tokenizer.model").exists():
        return LlamaTokenizer.from_pretrained(place, **special)
    return PreTrainedTokenizerFast(tokenizer_file=str(place / "tokenizer.json"), **special)


def special_ids(words) -> dict[str, int | None]:
    """bos_token_id, eos_token_id and pad_token_id, for config.json."""
    return {f"{name}_token_id": getattr(words, f"{name}_token_id") for name in ("bos", "eos", "pad")}


def with_new_tokens(words, size: int):
    """Add the 34 new tokens at the ids they have here, from `size` (rows of the base's embedding) on.

    Raises:
      ConversionError: a tokenizer that gives them others.
    """
    from transformers import AddedToken

    # Rows of the embedding that the tokenizer has no word for: without names for them the new ones would move up.
    words.add_tokens([f"<unused_{index}>" for index in range(len(words), size)])
    words.add_tokens([AddedToken(token, special=True, normalized=False) for token in NEW_TOKENS], special_tokens=True)
    found = words.convert_tokens_to_ids(list(NEW_TOKENS))
    if found != list(range(size, size + len(NEW_TOKENS))):
        raise ConversionError(f"the tokenizer gives the new tokens ids {found[:3]} and on, the model {size} and on")
    return words
