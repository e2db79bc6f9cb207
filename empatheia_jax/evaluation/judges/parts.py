"""What a judge is made of: the files that `empatheia fetch` brought, and a package of the extra `trained`."""

import importlib
import importlib.util
from pathlib import Path
from types import ModuleType

from empatheia_jax.trained_parts.home import PartError, part_folder

EXTRA = "pip install 'empatheia-jax[trained]'"
SAMPLE_RATE = 16_000
"""Of what every judge hears, Hz."""


class JudgeError(ValueError):
    """A judge that cannot be used: names the package or the file that it lacks."""


def judge_file(part: str, name: str) -> Path:
    """Return a file of a fetched part.

    Raises:
      PartError: the part is not fetched.
      JudgeError: it is, without this file.
    """
    path = part_folder(part) / name
    if not path.is_file():
        raise JudgeError(f"{path} is missing: remove {path.parent} and run `empatheia fetch {part}`")
    return path


def judge_package(package: str) -> ModuleType:
    """Import a package of the extra `trained`, by the name that pip has for it.

    Raises:
      JudgeError: it is not installed.
    """
    try:
        return importlib.import_module(package.replace("-", "_"))
    except ImportError as error:
        raise JudgeError(f"needs {package}: {EXTRA} ({error})") from error


def reason_absent(part: str, *packages: str) -> str | None:
    """Return why the judge of a part cannot be asked, as a line for a report; None where it can."""
    try:
        part_folder(part)
    except PartError:
        return f"not fetched: empatheia fetch {part}"
    lacking = [name for name in packages if importlib.util.find_spec(name.replace("-", "_")) is None]
    return f"needs {' and '.join(lacking)}: {EXTRA}" if lacking else None
