"""Checks and imports of a user's checkout of an original repository, and reading of its checkpoints."""

import contextlib
import dataclasses
import hashlib
import importlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import torch


class TorchBackendError(ValueError):
    """A checkout, a dependency or a checkpoint is missing or wrong; the message says which, and how to get it."""


@dataclasses.dataclass(frozen=True)
class Checkout:
    """A repository at the commit that this package is tested with."""

    url: str
    commit: str
    flag: str  # command line option that gives the checkout's folder
    packages: dict[str, str]  # module that its code imports -> package to install
    files: dict[str, str]  # path -> git's blob hash at that commit

    def check(self, repo: Path | str, any_commit: bool = False) -> Path:
        """Return the checkout's absolute path.

        Args:
          repo: the checkout's folder.
          any_commit: accept code of another commit.

        Raises:
          TorchBackendError: no checkout there, or its code is another commit's.
        """
        clone = f"git clone {self.url} && git -C {self.url.rsplit('/', 1)[-1]} checkout {self.commit[:8]}"
        if not str(repo) or not Path(repo).is_dir():
            raise TorchBackendError(f"{self.flag} {str(repo)!r}: no such folder; `{clone}` makes one")
        repo = Path(repo).resolve()
        for name, expected in self.files.items():
            if not (repo / name).is_file():
                raise TorchBackendError(f"{repo}: no {name} in it, so it is no checkout of {self.url}; `{clone}`")
            if not any_commit and git_blob_hash(repo / name) != expected:
                raise TorchBackendError(
                    f"{repo}: {name} is not that of commit {self.commit[:8]}, which was tested: `git -C {repo} "
                    f"checkout {self.commit[:8]}`, or set generators.torch.any_commit to try as it is"
                )
        return repo

    @contextlib.contextmanager
    def importing(self, repo: Path) -> Iterator[None]:
        """Make the checkout's modules, whose names are top-level, importable in the context.

        Raises:
          TorchBackendError: a missing package, or another module of the same name that is imported already.
        """
        for file in self.files:
            name = file.removesuffix(".py").replace("/", ".")
            origin = getattr(sys.modules.get(name), "__file__", None)
            if origin is not None and not Path(origin).resolve().is_relative_to(repo):
                raise TorchBackendError(
                    f"a module named {name!r} is imported already, from {origin}: {repo} has one of the same name; "
                    "use them in different processes"
                )
        sys.path.insert(0, str(repo))
        importlib.invalidate_caches()
        try:
            yield
        except ImportError as error:
            package = self.packages.get((error.name or "").split(".")[0])
            if package is None:
                raise TorchBackendError(f"{repo} cannot be imported: {error}") from error
            raise TorchBackendError(f"{repo} needs {error.name}: pip install {package}") from error
        finally:
            sys.path.remove(str(repo))


def git_blob_hash(path: Path) -> str:
    """Return the hash of a file's content as `git hash-object` computes it."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def stub_modules(*names: str) -> None:
    """Create empty modules for imports of a checkout that are never used, unless the first is installed."""
    if names[0] in sys.modules or importlib.util.find_spec(names[0]) is not None:
        return
    for name in names:
        module = sys.modules[name] = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)


def read_checkpoint_entry(path: Path, entry: str) -> dict:
    """Read one entry of a file written by torch.save, to the host.

    Raises:
      TorchBackendError: no such file, a file that torch cannot read, or no such entry.
    """
    if not Path(path).is_file():
        raise TorchBackendError(f"{path}: no such checkpoint")
    scalars = [
        importlib.import_module("numpy._core.multiarray").scalar,
        np.dtype,
        *(type(np.dtype(n)) for n in ("float32", "float64", "int64")),
    ]
    try:
        with torch.serialization.safe_globals(scalars):
            checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # depending on the file, torch raises errors of any type
        raise TorchBackendError(f"{path}: torch cannot read it ({type(error).__name__}: {error})") from error
    if not isinstance(checkpoint, dict) or entry not in checkpoint:
        raise TorchBackendError(f"{path}: no {entry!r} in it")
    return checkpoint[entry]


def load_state(
    network: torch.nn.Module, state: dict, path: Path, optional: tuple[str, ...] = (), *, prefix: str = ""
) -> None:
    """Load a state dict into a network, then freeze the network and set it to eval mode.

    Args:
      network: the network.
      state: its state dict.
      path: file that `state` is from, for messages.
      optional: prefixes of names that may be missing or unknown.
      prefix: prefix of the names in messages.

    Raises:
      TorchBackendError: tensors that are missing, unknown, or of another shape.
    """
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise TorchBackendError(f"{path}: {' '.join(str(error).split())}") from error
    wrong = [
        f"{prefix}{name} is {problem}"
        for names, problem in ((missing, "missing"), (unexpected, "not expected"))
        for name in names
        if not name.startswith(optional)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise TorchBackendError(f"{path}: {', '.join(wrong[:5])}{more}: is it the published file?")
    network.eval().requires_grad_(False)


def torch_device(name: str) -> torch.device:
    """Return the device called `name`; if it is empty, an accelerator if torch has one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
