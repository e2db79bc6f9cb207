"""Output folders that appear under their name when they are complete, or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from converters.readers import ConversionError


def refuse_existing(output: Path) -> None:
    """Raise ConversionError if `output` exists: nothing is overwritten."""
    if output.exists():
        raise ConversionError(f"{output}: is there already; choose another folder or remove it")


def partial_path(output: Path) -> Path:
    """Return the path at which a folder is written until it is complete."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def new_folder(output: Path) -> Iterator[Path]:
    """Yield a folder to write into; it is renamed to `output` at the end, or removed after an exception.

    Raises:
      ConversionError: `output` exists already.
    """
    refuse_existing(output)
    partial = partial_path(output)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(output)
