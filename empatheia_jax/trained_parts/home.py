"""Where fetched parts lie: a folder for each in the user's cache, or in EMPATHEIA_HOME."""

import os
from pathlib import Path

RECEIPT = "fetched.json"
"""What a complete part holds besides its files: where they came from, and their hashes."""


class PartError(ValueError):
    """A part that is not on this machine, or cannot be brought there: says why and what to do."""


def home() -> Path:
    """Return the folder of all fetched parts: EMPATHEIA_HOME, else `empatheia` in the user's cache directory."""
    if chosen := os.environ.get("EMPATHEIA_HOME"):
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "empatheia"


def part_folder(name: str) -> Path:
    """Return the folder of a complete part.

    Raises:
      PartError: it is not fetched.
    """
    folder = home() / name
    if not folder.is_dir():
        raise PartError(f"{name} is not fetched: run `empatheia fetch {name}`")
    return folder
