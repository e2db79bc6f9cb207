"""Every field of every config is in docs/config.md, with its default; and nothing else is."""

import dataclasses
import re
import typing
from pathlib import Path

from empatheia_jax.config import Config

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "config.md").read_text()


def field_names(config: type, prefix: str = "") -> list[str]:
    """Return the dotted names of all fields; a stage's number is N."""
    names = []
    for name, annotation in typing.get_type_hints(config).items():
        inner = [part for part in (annotation, *typing.get_args(annotation)) if dataclasses.is_dataclass(part)]
        is_part = dataclasses.is_dataclass(annotation) or typing.get_origin(annotation) is dict
        names += [] if is_part else [f"{prefix}{name}"]
        key = ".N" if typing.get_origin(annotation) is dict else ""
        for part in inner:
            names += field_names(part, f"{prefix}{name}{key}.")
    return names


def test_every_field_is_in_the_page_once_and_explained():
    rows = re.findall(r"^\| `([\w.]+)` \| (.+?) \| (.*) \|$", PAGE, re.M)
    assert sorted(name for name, *_ in rows) == sorted(field_names(Config))
    unexplained = [name for name, _, meaning in rows if not re.sub(r"`[^`]*`:?", "", meaning).strip()]
    assert unexplained == []


def test_defaults_in_the_page_are_those_of_the_dataclasses():
    config = Config()
    for name, default in re.findall(r"^\| `([\w.]+)` \| `(.+?)` \|", PAGE, re.M):
        if name.startswith(("data.mix.", "llm.rope_scaling.")):
            continue
        value = config
        for part in name.split("."):
            value = value["0"] if isinstance(value, dict) else getattr(value, part)
        words = " ".join(value) if isinstance(value, tuple) else str(value)
        assert default == (words.lower() if isinstance(value, bool) else words), name
