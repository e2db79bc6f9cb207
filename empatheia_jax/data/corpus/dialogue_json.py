"""Reads JSON files of dialogues, as people and other programs write them."""

import json
import re
from pathlib import Path
from typing import Any

from empatheia_jax.data.schema import RecordError

_STRING_OR_BRACE = re.compile(r'("(?:\\.|[^"\\])*")\s*(:?)|[{}]')


def load_dialogues(file: Path) -> list:
    """Load the dialogue objects of a JSON file; a single object counts as a list of one.

    Raises:
      RecordError: the file is missing, unreadable, not UTF-8, not JSON (with the line), has a key twice in an object
        (with the line), or holds no list of dialogues.
    """
    content = _load_json(file)
    if isinstance(content, dict) and "turns" in content:
        content = [content]
    if not isinstance(content, list):
        raise RecordError(f"expected a list of dialogues, found {type(content).__name__}", file=str(file))
    if not content:
        raise RecordError("holds no dialogue", file=str(file))
    return content


def _load_json(file: Path) -> Any:
    doubled: list[dict] = []

    def make_object(pairs: list[tuple[str, Any]]) -> dict:
        value = dict(pairs)  # Python's reader would keep the last value of a key that stands twice, without a word
        if len(value) < len(pairs):
            doubled.append(value)
        return value

    try:
        text = file.read_text("utf-8-sig")
        content = json.loads(text, object_pairs_hook=make_object)
    except FileNotFoundError as error:
        raise RecordError("no such file", file=str(file)) from error
    except OSError as error:
        raise RecordError(f"cannot be read ({error.strerror})", file=str(file)) from error
    except UnicodeDecodeError as error:
        raise RecordError(f"not UTF-8 at byte {error.start}: save it again as UTF-8", file=str(file)) from error
    except json.JSONDecodeError as error:
        raise RecordError(f"not JSON at line {error.lineno}: {error.msg}", file=str(file)) from error
    except (RecursionError, ValueError) as error:  # nested too deeply, or a number of thousands of digits
        raise RecordError(f"not JSON of dialogues ({error})", file=str(file)) from error
    if doubled:
        key, line = _doubled_key(text)
        raise RecordError(f"the key {key!r} stands twice in one object, again at line {line}: keep one", file=str(file))
    return content


def _doubled_key(text: str) -> tuple[str, int]:
    """Return the first key that stands twice in an object of a JSON text that has one, and the line of the second."""
    open_objects: list[set[str]] = []
    for match in _STRING_OR_BRACE.finditer(text):
        if match[0] == "{":
            open_objects.append(set())
        elif match[0] == "}":
            open_objects.pop()
        elif match[2]:
            key = json.loads(match[1])  # "\\u0061" is the same key as "a"
            if key in open_objects[-1]:
                return key, text.count("\n", 0, match.start()) + 1
            open_objects[-1].add(key)
    raise AssertionError("no doubled key")
