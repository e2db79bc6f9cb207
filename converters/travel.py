"""What goes with the weights (tokenizer, preprocessing), and whether a file is the published one (SHA-256)."""

import hashlib
import re
import shutil
from collections.abc import Callable
from pathlib import Path

from converters.readers import ConversionError

FILES = (
    "tokenizer.model",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.json",
    "chat_template.jinja",
    "generation_config.json",
    "preprocessor_config.json",
    "feature_extractor_config.json",
    "processor_config.json",
)
_SHA256 = re.compile(r"[0-9a-f]{64}")


def copy(source: Path, output: Path) -> list[str]:
    """Copy the settings that are there; returns their names."""
    found = [name for name in FILES if (source / name).is_file()]
    for name in found:
        shutil.copyfile(source / name, output / name)
    return found


def given_hash(path: Path) -> tuple[str, str] | None:
    """(the SHA-256 that a file should have, who says so), where somebody does.

    The Hub's cache names a file by its hash, its download folders keep it beside (.cache/huggingface), and people keep
    SHA256SUMS.
    """
    real = path.resolve()
    if path.is_symlink() and _SHA256.fullmatch(real.name):
        return real.name, "the Hub's cache"
    metadata = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    if metadata.is_file():
        lines = metadata.read_text("utf-8").split()
        if len(lines) > 1 and _SHA256.fullmatch(lines[1]):
            return lines[1], f"the Hub ({metadata.relative_to(path.parent)})"
    sums = path.parent / "SHA256SUMS"
    if sums.is_file():
        for line in sums.read_text("utf-8").splitlines():
            digest, _, name = line.partition(" ")
            if name.strip().lstrip("*") == path.name:
                return sha256_of(digest, str(sums)), sums.name
    return None


def sha256_of(text: str, where: str) -> str:
    """64 hex digits in small letters.

    Raises:
      ConversionError: the text is none.
    """
    if not _SHA256.fullmatch(text.lower()):
        raise ConversionError(f"{where}: {text!r} is no SHA-256")
    return text.lower()


def check_hash(path: Path, wanted: str, who: str, advance: Callable[[int], object]) -> None:
    """Compare a file with the SHA-256 that `who` gives for it, calling `advance` with each piece's bytes.

    Raises:
      ConversionError: it is another file.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(1 << 24):
            digest.update(piece)
            advance(len(piece))
    if digest.hexdigest() != wanted:
        raise ConversionError(
            f"{path}: its SHA-256 is {digest.hexdigest()}, {who} says {wanted}: a damaged download or another file; "
            "fetch it again"
        )
