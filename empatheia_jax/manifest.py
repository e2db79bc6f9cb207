"""What a checkpoint's files must be: sizes and SHA-256, written when all of them are there, compared at a resume.

A flipped bit in a checkpoint is not always an error to those who read it. DIR/checkpoints/STEP/manifest.json comes
last, so where a run writes manifests, a checkpoint without one was not finished.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

from empatheia_jax.atomic import write_json

NAME = "manifest.json"
ASIDE = "set_aside"  # beside the folder of the checkpoints


def _facts(path: Path) -> dict:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files below `folder`, whole or not at all."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != NAME)
    write_json(folder / NAME, {path.relative_to(folder).as_posix(): _facts(path) for path in paths})


def defect(folder: Path) -> str:
    """What is wrong with the files of a folder that has a manifest; "" where nothing is."""
    text = (folder / NAME).read_bytes()
    try:
        wanted = json.loads(text)
        for name, facts in wanted.items():
            path, size = folder / name, facts["bytes"]
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _facts(path) != facts:
                return f"{name} has changed: its SHA-256 is another"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{NAME} cannot be read ({type(error).__name__})"
    return ""


def numbered(checkpoints: Path) -> list[Path]:
    """The folders of checkpoints in a run's `checkpoints/`, oldest first."""
    found = [path for path in checkpoints.iterdir() if path.name.isdecimal()] if checkpoints.is_dir() else []
    return sorted(found, key=lambda path: int(path.name))


def newest_defect(checkpoints: Path) -> tuple[Path, str] | None:
    """The newest checkpoint and what is wrong with it; None where it is whole, or there is none.

    One without a manifest is taken as it is where no older one has any: it was written by an older version, or the run
    was killed at its very first checkpoint.
    """
    folders = numbered(checkpoints)
    if not folders:
        return None
    newest = folders[-1]
    if (newest / NAME).exists():
        why = defect(newest)
    else:
        sealed = any((folder / NAME).exists() for folder in folders[:-1])
        why = f"it has no {NAME}: not finished, or lost" if sealed else ""
    return (newest, why) if why else None


def set_aside_damaged(checkpoints: Path) -> None:
    """Move damaged checkpoints away, newest first, until the newest is whole; says which and why.

    What a kill left half written goes: it never was a checkpoint.
    """
    for half in checkpoints.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(half, ignore_errors=True)
    while (found := newest_defect(checkpoints)) is not None:
        newest, why = found
        aside = checkpoints.parent / ASIDE
        aside.mkdir(exist_ok=True)
        taken = len(list(aside.glob(f"{newest.name}-*")))
        place = aside / f"{newest.name}-{taken + 1}"
        shutil.move(newest, place)
        before = numbered(checkpoints)
        use = f"the run goes on from {before[-1].name}" if before else "there is none before it: the run begins again"
        print(f"checkpoint {newest.name} is damaged: {why}; kept in {place}; {use}", file=sys.stderr, flush=True)
