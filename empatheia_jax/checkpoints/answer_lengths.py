"""How long a run's training answers are, and from that how many tokens it may write: WORKDIR/answer_lengths.json."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from empatheia_jax.config import Config, ConfigError
from empatheia_jax.runtime.atomic import write_json
from empatheia_jax.runtime.json_files import read_json

FILE_NAME = "answer_lengths.json"
QUANTILE = 0.999
LIMIT_OF_OLDER_RUNS = 160  # of runs that were trained before the lengths were recorded


def write_answer_lengths(folder: Path, lengths: Sequence[int]) -> None:
    """Record the lengths (in tokens) of the training answers: their number, the quantile and the longest."""
    if len(lengths):
        quantile = int(np.quantile(lengths, QUANTILE, method="higher"))
        folder.mkdir(parents=True, exist_ok=True)
        write_json(
            folder / FILE_NAME, {"answers": len(lengths), "quantile_99.9": quantile, "longest": int(max(lengths))}
        )


def answer_limit(folder: Path, config: Config, requested: int | None = None) -> int:
    """Return the most tokens of an answer.

    Args:
      folder: the run's.
      config: its `max_new_tokens` holds where nothing is requested; where that is 0, the recorded quantile.
      requested: takes precedence; None: nothing is requested.

    Raises:
      ConfigError: less than one token is requested.
    """
    if requested is not None and requested < 1:
        raise ConfigError(f"--max-new-tokens {requested}: give 1 or more, or leave it out")
    if requested or config.max_new_tokens:
        return requested or config.max_new_tokens
    path = Path(folder) / FILE_NAME
    return read_json(path)["quantile_99.9"] if path.exists() else LIMIT_OF_OLDER_RUNS
