"""What lies beside published weights: files that are copied along (tokenizer, preprocessing), and their SHA-256."""

import hashlib
import re
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path

from converters.tensors import ConversionError

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


def copy_settings(source: Path, output: Path) -> list[str]:
    """Copy those of `FILES` that exist and return their names."""
    names = [name for name in FILES if (source / name).is_file()]
    for name in names:
        shutil.copyfile(source / name, output / name)
    return names


def write_files(contents: Mapping[str, bytes], output: Path) -> list[str]:
    """Write files, name -> contents, and return their names."""
    for name, content in contents.items():
        (output / name).write_bytes(content)
    return list(contents)


def published_hash(path: Path) -> tuple[str, str] | None:
    """Return the published SHA-256 of a file and where it is from, or None where it is not known.

    The Hub's cache names a file by its hash, a download from the Hub keeps it in .cache/huggingface beside the file,
    and a SHA256SUMS may lie beside the file.
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
                return parse_sha256(digest, str(sums)), sums.name
    return None


def parse_sha256(text: str, where: str) -> str:
    """Return a SHA-256 as 64 lower-case hex digits; `where` names its origin in the error.

    Raises:
      ConversionError: the text is not a SHA-256.
    """
    if not _SHA256.fullmatch(text.lower()):
        raise ConversionError(f"{where}: {text!r} is not a SHA-256")
    return text.lower()


def check_hash(path: Path, expected: str, origin: str, advance: Callable[[int], object]) -> None:
    """Compare the SHA-256 of a file with the expected one.

    Args:
      path: the file.
      expected: 64 hex digits.
      origin: where the expected hash is from, for the error.
      advance: called with the number of bytes of each chunk that was read.
    Raises:
      ConversionError: the hashes differ.
    """
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 24):
            digest.update(chunk)
            advance(len(chunk))
    if digest.hexdigest() != expected:
        raise ConversionError(
            f"{path}: its SHA-256 is {digest.hexdigest()}, {origin} says {expected}: a damaged download or another "
            "file; download it again"
        )
