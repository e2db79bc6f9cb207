"""The manifest of a checkpoint: sizes and SHA-256 of its files, written when they are complete, checked at a resume.

A reader does not always notice a flipped bit. DIR/checkpoints/STEP/manifest.json is written last, so where a run writes
manifests, a checkpoint without one was not finished.
"""

import hashlib
import json
import shutil
import sys
from pathlib import Path

from empatheia_jax.runtime.atomic import write_json

FILE_NAME = "manifest.json"
SET_ASIDE = "set_aside"  # beside the folder of the checkpoints


def _describe_file(path: Path) -> dict:
    with path.open("rb") as file:
        return {"bytes": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def write_manifest(folder: Path) -> None:
    """Write the manifest of all files below `folder`, atomically."""
    paths = sorted(path for path in folder.rglob("*") if path.is_file() and path.name != FILE_NAME)
    write_json(folder / FILE_NAME, {path.relative_to(folder).as_posix(): _describe_file(path) for path in paths})


def find_defect(folder: Path) -> str:
    """Return what is wrong with the files of a folder that has a manifest; "" where nothing is."""
    text = (folder / FILE_NAME).read_bytes()
    try:
        for name, expected in json.loads(text).items():
            path, size = folder / name, expected["bytes"]
            if not path.is_file():
                return f"{name} is missing"
            if path.stat().st_size != size:
                return f"{name} has {path.stat().st_size} bytes instead of {size}"
            if _describe_file(path) != expected:
                return f"{name} has changed: its SHA-256 is another"
    except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
        return f"{FILE_NAME} cannot be read ({type(error).__name__})"
    return ""


def checkpoint_folders(checkpoints: Path) -> list[Path]:
    """Return the folders of checkpoints in a run's `checkpoints/`, oldest first."""
    folders = [path for path in checkpoints.iterdir() if path.name.isdecimal()] if checkpoints.is_dir() else []
    return sorted(folders, key=lambda path: int(path.name))


def find_newest_defect(checkpoints: Path) -> tuple[Path, str] | None:
    """Return the newest checkpoint and what is wrong with it; None where nothing is, or there is none.

    One without a manifest is accepted where no older one has any: it was written by an older version, or the run was
    killed at its first checkpoint.
    """
    folders = checkpoint_folders(checkpoints)
    if not folders:
        return None
    newest = folders[-1]
    if (newest / FILE_NAME).exists():
        defect = find_defect(newest)
    else:
        has_manifests = any((folder / FILE_NAME).exists() for folder in folders[:-1])
        defect = f"it has no {FILE_NAME}: not finished, or lost" if has_manifests else ""
    return (newest, defect) if defect else None


def set_aside_damaged(checkpoints: Path) -> None:
    """Move damaged checkpoints away, newest first, until the newest is undamaged; prints which and why.

    Temporary folders that a kill left are deleted: they never were checkpoints.
    """
    for unfinished in checkpoints.glob("*.orbax-checkpoint-tmp*"):
        shutil.rmtree(unfinished, ignore_errors=True)
    while (damaged := find_newest_defect(checkpoints)) is not None:
        newest, defect = damaged
        aside = checkpoints.parent / SET_ASIDE
        aside.mkdir(exist_ok=True)
        count = len(list(aside.glob(f"{newest.name}-*")))
        target = aside / f"{newest.name}-{count + 1}"
        shutil.move(newest, target)
        older = checkpoint_folders(checkpoints)
        next_step = (
            f"the run goes on from {older[-1].name}" if older else "there is none before it: the run begins again"
        )
        print(
            f"checkpoint {newest.name} is damaged: {defect}; kept in {target}; {next_step}", file=sys.stderr, flush=True
        )
