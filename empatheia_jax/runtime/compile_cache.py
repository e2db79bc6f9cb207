"""JAX's persistent compilation cache, in a folder of the user's: a program is compiled once, not in every run.

Whoever can write to the folder can run code as whoever reads it: treat it as trusted code, and share it with nobody.

JAX writes an entry in place. A process that is killed while it writes leaves a truncated entry, which JAX can neither
read nor replace: every later run would warn and compile again. `use_cache` removes such entries.
"""

import hashlib
import os
import platform
import warnings
from pathlib import Path
from typing import Any

import jax
from jax._src.compilation_cache import decompress_executable

LIMIT = 4 << 30  # bytes of all entries; beyond it the least recently used are removed
_ENTRY, _CHECKED = "*-cache", ".checked"  # names of JAX's entries; of a file as old as the last check


def default_folder() -> Path:
    """Return the folder in `$XDG_CACHE_HOME` or ~/.cache; each CPU model has its own, as programs use its features."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "empatheia_jax" / "compiled" / cpu_name()


def cpu_name() -> str:
    """Return a name for this model of CPU: its architecture, and a hash of its model name and features."""
    wanted = ("model name", "flags", "Features", "CPU part", "isa")
    try:
        processor = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        facts = [line for line in processor.splitlines() if line.split("\t")[0].split(":")[0].strip() in wanted]
    except OSError:  # not Linux
        facts = [platform.processor(), platform.release()]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"


def use_cache() -> Path | None:
    """Turn the cache on for all programs compiled from now on.

    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns the cache off. Of
    several processes the first writes, and all read. A folder that cannot be written causes a warning and is not used.

    Returns:
      The folder; None where the cache is off.
    """
    config: Any = jax.config  # it gets its attributes at run time
    if not config.jax_enable_compilation_cache:
        return None
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # Even the smallest programs are read in a quarter of the time that compiling them takes.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    chosen = config.jax_compilation_cache_dir
    if chosen and "://" in chosen:  # a bucket, which JAX handles itself
        return Path(chosen)
    folder = Path(chosen) if chosen else default_folder()
    try:
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if jax.process_index() == 0:
            remove_broken(folder)
            if not chosen:
                remove_oldest(folder, LIMIT)
    except OSError as error:
        warnings.warn(f"{folder}: compiled programs are not kept: {error}", stacklevel=2)
        return None
    jax.config.update("jax_compilation_cache_dir", str(folder))
    return folder


def remove_broken(folder: Path) -> int:
    """Remove entries that JAX cannot read, of those written since the last check, and return how many.

    An entry that another process is just writing may be removed too; that process itself does not need it.
    """
    stamp = folder / _CHECKED
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    started = folder / f"{_CHECKED}.{os.getpid()}"
    started.touch()  # before the check: what is written meanwhile is checked next time
    removed = 0
    for entry in folder.glob(_ENTRY):
        try:
            if entry.stat().st_mtime_ns >= since and not _readable(entry):
                entry.unlink()
                removed += 1
        except FileNotFoundError:  # another process removed it
            continue
    started.replace(stamp)
    return removed


def _readable(entry: Path) -> bool:
    try:
        return bool(decompress_executable(entry.read_bytes()))
    except FileNotFoundError:
        raise
    except Exception:  # an error of zlib or zstandard, whichever JAX uses
        return False


def remove_oldest(folder: Path, limit: int) -> int:
    """Remove the least recently used entries until the rest is within `limit` bytes, and return how many."""
    entries = []
    for entry in folder.glob(_ENTRY):
        try:
            status = entry.stat()
        except FileNotFoundError:
            continue
        entries.append((max(status.st_atime_ns, status.st_mtime_ns), status.st_size, entry))
    total, removed = sum(size for _, size, _ in entries), 0
    for _, size, entry in sorted(entries):
        if total <= limit:
            break
        entry.unlink(missing_ok=True)
        total, removed = total - size, removed + 1
    return removed
