"""Compiled programs kept between runs: JAX's persistent compilation cache, in a folder of the user's.

Who may write to the folder may run code as whoever reads it: treat it as trusted code, and share it with nobody.

JAX writes an entry in place. A process that is killed while it writes leaves half of one, which JAX then neither reads
nor replaces: every later run would warn and compile again. `use_cache` removes those.
"""

import hashlib
import os
import platform
import warnings
from pathlib import Path

import jax
from jax._src.compilation_cache import decompress_executable

LIMIT = 4 << 30  # bytes of all entries, beyond which the longest unused are removed
_ENTRY, _CHECKED = "*-cache", ".checked"  # what JAX calls an entry; a file that is as old as the last check


def default_folder() -> Path:
    """Below `$XDG_CACHE_HOME`, or ~/.cache; one for every kind of CPU, as programs use what it can do."""
    caches = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return caches / "empatheia_jax" / "compiled" / machine()


def machine() -> str:
    """A name for this kind of CPU: the architecture, and a hash of its model and features."""
    wanted = ("model name", "flags", "Features", "CPU part", "isa")
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
        facts = [line for line in first.splitlines() if line.split("\t")[0].split(":")[0].strip() in wanted]
    except OSError:  # no Linux
        facts = [platform.processor(), platform.release()]
    return f"{platform.machine()}-{hashlib.sha256(chr(10).join(facts).encode()).hexdigest()[:12]}"


def use_cache() -> Path | None:
    """Keep what is compiled from here on, and use what was kept; returns where, None where nothing is kept.

    `JAX_COMPILATION_CACHE_DIR` names another folder, `JAX_ENABLE_COMPILATION_CACHE=false` turns it off. Of several
    processes the first writes, and all read. A folder that cannot be written is warned of and left.
    """
    if not jax.config.jax_enable_compilation_cache:
        return None
    if "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS" not in os.environ:
        # The smallest programs, too, are read in a quarter of the time that they take to compile.
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    chosen = jax.config.jax_compilation_cache_dir
    if chosen and "://" in chosen:  # a bucket: JAX's own affair
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
    """Remove entries that JAX cannot read, and return how many; those written since the last time are looked at.

    One that another process is just writing is lost to later ones, not to that process.
    """
    stamp = folder / _CHECKED
    since = stamp.stat().st_mtime_ns if stamp.exists() else 0
    begun = folder / f"{_CHECKED}.{os.getpid()}"
    begun.touch()  # before looking: what is written meanwhile is looked at next time
    removed = 0
    for entry in folder.glob(_ENTRY):
        try:
            if entry.stat().st_mtime_ns >= since and not _readable(entry):
                entry.unlink()
                removed += 1
        except FileNotFoundError:  # another process was here
            continue
    begun.replace(stamp)
    return removed


def _readable(entry: Path) -> bool:
    try:
        return bool(decompress_executable(entry.read_bytes()))
    except FileNotFoundError:
        raise
    except Exception:  # of zlib or zstandard, whichever JAX uses here
        return False


def remove_oldest(folder: Path, limit: int) -> int:
    """Remove the entries that were not read for longest until the rest is within `limit` bytes; returns how many."""
    found = []
    for entry in folder.glob(_ENTRY):
        try:
            facts = entry.stat()
        except FileNotFoundError:
            continue
        found.append((max(facts.st_atime_ns, facts.st_mtime_ns), facts.st_size, entry))
    size, removed = sum(bytes_ for _, bytes_, _ in found), 0
    for _, bytes_, entry in sorted(found):
        if size <= limit:
            break
        entry.unlink(missing_ok=True)
        size, removed = size - bytes_, removed + 1
    return removed
