"""A folder that appears under its name when it is whole, or not at all."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from converters.readers import ConversionError


def refuse_existing(output: Path) -> None:
    """Raise ConversionError where there is something already: nothing is written over."""
    if output.exists():
        raise ConversionError(f"{output}: is there already; choose another folder or remove it")


def partial_of(output: Path) -> Path:
    """Where a folder is written before it has its name."""
    return output.with_name(output.name + ".partial")


@contextlib.contextmanager
def fresh(output: Path) -> Iterator[Path]:
    """The folder to write into; leaving by an exception removes it, else it gets the name `output`.

    Raises:
      ConversionError: `output` is there already.
    """
    refuse_existing(output)
    partial = partial_of(output)
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    try:
        yield partial
    except BaseException:
        shutil.rmtree(partial, ignore_errors=True)
        raise
    partial.rename(output)
