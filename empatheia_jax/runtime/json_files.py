"""Reads JSON files that a person may have changed or a copy may have damaged (`atomic.write_json` writes them)."""

import json
from pathlib import Path
from typing import Any


class JsonFileError(ValueError):
    """A JSON file that cannot be used; the message names it and says what is wrong."""


def read_json(path: Path, kind: type = dict) -> Any:
    """Read a JSON file.

    Args:
      path: the file, in UTF-8.
      kind: what it holds: dict or list.

    Raises:
      JsonFileError: not JSON, or it holds something else.
      OSError: the file is missing or cannot be read.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:  # UnicodeDecodeError is among them
        raise JsonFileError(f"{path}: not JSON ({error}): it is damaged, copy or write it again") from error
    if not isinstance(content, kind):
        raise JsonFileError(f"{path}: expected a JSON {kind.__name__}, found {type(content).__name__}")
    return content
