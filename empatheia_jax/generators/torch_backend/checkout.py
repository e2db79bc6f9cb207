"""A user's checkout of somebody's code: is it the right one, and what must be installed for it."""

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
    """A checkout, a dependency or a weight that is not there: says which, and how to get it."""


@dataclasses.dataclass(frozen=True)
class Checkout:
    """What is known of a repository at the commit that we were tested with."""

    url: str
    commit: str
    flag: str  # which names the checkout
    packages: dict[str, str]  # what its code imports -> what pip calls it
    files: dict[str, str]  # path -> git's hash of its content at that commit

    def check(self, repo: Path, any_commit: bool = False) -> Path:
        """The checkout's absolute path.

        Raises:
          TorchBackendError: it is not there, or its code is not that of the commit (and not `any_commit`).
        """
        clone = f"git clone {self.url} && git -C {self.url.rsplit('/', 1)[-1]} checkout {self.commit[:8]}"
        if not str(repo) or not Path(repo).is_dir():
            raise TorchBackendError(f"{self.flag} {str(repo)!r}: no such folder; `{clone}` makes one")
        repo = Path(repo).resolve()
        for name, known in self.files.items():
            if not (repo / name).is_file():
                raise TorchBackendError(f"{repo}: no {name} in it, so it is no checkout of {self.url}; `{clone}`")
            if not any_commit and git_hash(repo / name) != known:
                raise TorchBackendError(
                    f"{repo}: {name} is not that of commit {self.commit[:8]}, which was tested: `git -C {repo} "
                    f"checkout {self.commit[:8]}`, or set generators.torch.any_commit to try as it is"
                )
        return repo

    @contextlib.contextmanager
    def importing(self, repo: Path) -> Iterator[None]:
        """Within, the checkout's modules can be imported; they have top-level names.

        Raises:
          TorchBackendError: a package that its code imports is missing, or another program's module has the name.
        """
        for file in self.files:
            name = file.removesuffix(".py").replace("/", ".")
            place = getattr(sys.modules.get(name), "__file__", None)
            if place is not None and not Path(place).resolve().is_relative_to(repo):
                raise TorchBackendError(
                    f"a module named {name!r} is imported already, from {place}: {repo} has one of the same name; "
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


def git_hash(path: Path) -> str:
    """What `git hash-object` says of a file."""
    data = path.read_bytes()
    return hashlib.sha1(b"blob %d\0" % len(data) + data, usedforsecurity=False).hexdigest()


def stand_in(*names: str) -> None:
    """Empty modules of these names, unless the first is installed: for what a checkout imports and we do not use."""
    if names[0] in sys.modules or importlib.util.find_spec(names[0]) is not None:
        return
    for name in names:
        module = sys.modules[name] = ModuleType(name)
        module.__spec__ = importlib.machinery.ModuleSpec(name, None)
        parent, _, last = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], last, module)


def read_entry(path: Path, entry: str) -> dict:
    """One entry of a file that torch.save wrote, on the host.

    Raises:
      TorchBackendError: no such file, not torch's, or no such entry.
    """
    if not Path(path).is_file():
        raise TorchBackendError(f"{path}: no such checkpoint")
    scalars = [np._core.multiarray.scalar, np.dtype, *(type(np.dtype(n)) for n in ("float32", "float64", "int64"))]
    try:
        with torch.serialization.safe_globals(scalars):
            found = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except Exception as error:  # torch raises what the file makes it raise
        raise TorchBackendError(f"{path}: torch cannot read it ({type(error).__name__}: {error})") from error
    if not isinstance(found, dict) or entry not in found:
        raise TorchBackendError(f"{path}: no {entry!r} in it")
    return found[entry]


def load(network: torch.nn.Module, state: dict, path: Path, unused: tuple[str, ...] = (), prefix: str = "") -> None:
    """Put a state dict into a network, which is then frozen and in eval mode.

    Args:
      unused: beginnings of names that may be missing or left over. prefix: of the names in messages.
    Raises:
      TorchBackendError: tensors that are missing, left over, or of another shape.
    """
    try:
        missing, unexpected = network.load_state_dict(state, strict=False)
    except RuntimeError as error:
        raise TorchBackendError(f"{path}: {' '.join(str(error).split())}") from error
    wrong = [
        f"{prefix}{name} is {how}"
        for names, how in ((missing, "missing"), (unexpected, "not known"))
        for name in names
        if not name.startswith(unused)
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise TorchBackendError(f"{path}: {', '.join(wrong[:5])}{more}: is it the published file?")
    network.eval().requires_grad_(False)


def device_of(name: str) -> torch.device:
    """Where torch computes: `name`, or an accelerator if torch has one."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def file_sha256(path: Path) -> str:
    """Of a file's content."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
