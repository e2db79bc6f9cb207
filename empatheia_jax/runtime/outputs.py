"""Outputs never destroy inputs: both are compared before anything is loaded, by what they are and not by their names.

Hard links, symbolic links, `..` and file systems that ignore case give one file several names.
"""

import os
from collections.abc import Iterable
from pathlib import Path

Named = Iterable[tuple[str, Path | str | None]]  # (name for errors such as "--output", path); None: not given


class OutputError(ValueError):
    """An output that would overwrite or remove an input: names both."""


def check_outputs(outputs: Named, inputs: Named) -> None:
    """Check that writing the outputs leaves all inputs as they are.

    Args:
      outputs: files that are written, and folders whose contents are written or replaced as a whole.
      inputs: files and folders that are read; a folder stands for all that is in it.
    Raises:
      OutputError: an output is an input, is a file that lies in an input folder, or is a folder with an input in it.
    """
    read = [(name, path, _identities(path)) for name, path in inputs if path]
    for name, path in outputs:
        if not path:
            continue
        written = _identities(path)
        for input_name, input_path, identities in read:
            if written[0] == identities[0]:
                problem = f"it is {input_name} {input_path} and would be overwritten"
            elif identities[0] in written[1:] and os.path.isfile(path):
                problem = f"it is a file of {input_name} {input_path} and would be overwritten"
            elif written[0] in identities[1:]:
                problem = f"{input_name} {input_path} lies in it and could be overwritten"
            else:
                continue
            raise OutputError(f"{name} {path}: {problem}: choose another name (nothing was written)")


def with_json(output: Path) -> list[tuple[str, Path]]:
    """Return the outputs of a command that writes `--output` and a .json beside it."""
    return [("--output", output), ("--output", output.with_suffix(".json"))]


def _identities(path: Path | str) -> list[object]:
    """Return what identifies a path and each folder above it: device and inode, or the name where there is none yet."""
    resolved = Path(os.path.realpath(path))
    return [_identity(place) for place in (resolved, *resolved.parents)]


def _identity(path: Path) -> object:
    try:
        status = path.stat()
    except (OSError, ValueError):  # not there, or no possible name: whatever opens it has a message of its own
        return str(path)
    return status.st_dev, status.st_ino
