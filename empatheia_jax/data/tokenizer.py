"""Text to ids and back: a byte-level BPE of our own, or the tokenizer of a Llama checkpoint.

The 34 tokens of the multimodal parts stand beside the base vocabulary, never inside it: their ids start at
`vocab_size`, so the frozen embedding of a base model is untouched (they have their own small table in the model).

Text is encoded as *continuing* text: no beginning-of-text token and no leading dummy space are added, so that the ids
of the pieces of a prompt can be joined as lists. `data/prompts.py` adds both where a prompt begins.
"""

import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

SIGNALS = 16
AUDIO_SLOT, VIDEO_SLOT = "<Aud>", "<Vid>"
AUDIO_SIGNALS = tuple(f"<AUD{number}>" for number in range(1, SIGNALS + 1))
VIDEO_SIGNALS = tuple(f"<VID{number}>" for number in range(1, SIGNALS + 1))
NEW_TOKENS = (AUDIO_SLOT, VIDEO_SLOT, *AUDIO_SIGNALS, *VIDEO_SIGNALS)
"""Appendix D.1: two placeholders and 2 x 16 generation signals, in the order of their ids."""

_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"
_SMALLEST = 3 + 256  # the three special tokens and one entry a byte


class TokenizerError(ValueError):
    """A tokenizer that cannot be trained or loaded, or an id it does not have."""


class Tokenizer:
    """A base vocabulary of `vocab_size` entries, and after it the 34 `NEW_TOKENS`.

    Attributes:
      vocab_size: entries of the base vocabulary = rows of the LLM's own embedding.
      pad_id, bos_id, eos_id: ids inside the base vocabulary.
      dummy_prefix: whether the base model saw a space before the first word of a text (Llama 1/2, Vicuna).
    """

    def __init__(self, backend, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int, dummy_prefix: bool = False):
        """`backend` is a `_Fast` or `_SentencePiece`; use `train_bpe` or `load`."""
        if backend.size > vocab_size:
            raise TokenizerError(
                f"the tokenizer has {backend.size} entries, more than the {vocab_size} rows of the embedding: "
                "tokenizer and model do not belong together"
            )
        self._backend = backend
        self.vocab_size, self.dummy_prefix = vocab_size, dummy_prefix
        self.pad_id, self.bos_id, self.eos_id = pad_id, bos_id, eos_id
        self._new_ids = {token: vocab_size + index for index, token in enumerate(NEW_TOKENS)}

    def __len__(self) -> int:
        """All ids: base vocabulary and new tokens."""
        return self.vocab_size + len(NEW_TOKENS)

    def token_id(self, token: str) -> int:
        """Id of one of `NEW_TOKENS`, such as "<AUD3>"."""
        return self._new_ids[token]

    @property
    def signal_ids(self) -> list[int]:
        """Ids of <AUD1..16> <VID1..16>, in this order."""
        return [self._new_ids[token] for token in (*AUDIO_SIGNALS, *VIDEO_SIGNALS)]

    def encode(self, text: str) -> list[int]:
        """Ids of continuing text. Special or new tokens written in `text` are plain characters here."""
        return self._backend.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Text of `ids`; special and new tokens have none. Undecodable bytes become U+FFFD.

        Raises:
          TokenizerError: for an id that is negative or past the last new token.
        """
        ids = [int(token) for token in ids]
        strange = [token for token in ids if not 0 <= token < len(self)]
        if strange:
            raise TokenizerError(f"id {strange[0]} is outside 0..{len(self) - 1}")
        return self._backend.decode([token for token in ids if token < self._backend.size])

    def save(self, folder: Path | str) -> Path:
        """Write the base vocabulary into `folder` so that `load` reads it back; returns the file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {"pad_token": self.pad_id, "bos_token": self.bos_id, "eos_token": self.eos_id}
        names = {name: self._backend.token(index) for name, index in special.items()}
        config = json.dumps({"vocab_size": self.vocab_size, **names}, indent=1)
        _write_atomically(folder / "tokenizer_config.json", config.encode())
        return self._backend.save(folder)


class _Fast:
    """A `tokenizers` tokenizer, made to encode continuing text."""

    def __init__(self, spec: str):
        self._spec = spec  # as read, so that `save` loses nothing
        parsed = json.loads(spec)
        self.dummy_prefix = _drop_dummy_prefix(parsed)
        parsed["post_processor"] = None
        parsed["truncation"] = parsed["padding"] = None
        self._tokenizer = tokenizers.Tokenizer.from_str(json.dumps(parsed))
        self._tokenizer.encode_special_tokens = True  # "</s>" typed by a person ends nothing
        self.size = max(self._tokenizer.get_vocab(with_added_tokens=True).values()) + 1

    def encode(self, text: str) -> list[int]:
        return self._tokenizer.encode(text, add_special_tokens=False).ids

    def decode(self, ids: list[int]) -> str:
        return self._tokenizer.decode(ids, skip_special_tokens=True)

    def id_of(self, token: str) -> int | None:
        return self._tokenizer.token_to_id(token)

    def token(self, index: int) -> str:
        return self._tokenizer.id_to_token(index)

    def save(self, folder: Path) -> Path:
        return _write_atomically(folder / "tokenizer.json", self._spec.encode())


def _drop_dummy_prefix(spec: dict) -> bool:
    """Take the leading "▁" of Llama 1/2 out of a tokenizer.json (both ways it is written); True if there was one."""
    found = False

    def without(part: dict | None, children: str) -> dict | None:
        nonlocal found
        if part is None:
            return None
        if part["type"] == "Sequence":
            kept = [kept for child in part[children] if (kept := without(child, children)) is not None]
            return {**part, children: kept} if kept else None
        if part["type"] == "Metaspace":
            found = found or part.get("prepend_scheme", "always") != "never"
            return {**{k: v for k, v in part.items() if k != "add_prefix_space"}, "prepend_scheme": "never"}
        if part["type"] == "Prepend":
            found = True
            return None
        is_space_strip = part["type"] == "Strip" and part.get("content") == " " and part.get("start", 0)
        return None if is_space_strip else part

    spec["normalizer"] = without(spec.get("normalizer"), "normalizers")
    spec["pre_tokenizer"] = without(spec.get("pre_tokenizer"), "pretokenizers")
    if found:
        spec["decoder"] = without(spec.get("decoder"), "decoders")
    return found


class _SentencePiece:
    """A Llama `tokenizer.model`, made to encode continuing text."""

    def __init__(self, model: bytes):
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf: only where such a file is read

        self._model = model
        proto = sentencepiece_model_pb2.ModelProto.FromString(model)
        self.dummy_prefix = proto.normalizer_spec.add_dummy_prefix
        proto.normalizer_spec.add_dummy_prefix = False
        proto.normalizer_spec.remove_extra_whitespaces = False  # a leading space belongs to the next word
        self._processor = sentencepiece.SentencePieceProcessor(model_proto=proto.SerializeToString())
        self.size = self._processor.vocab_size()

    def encode(self, text: str) -> list[int]:
        return self._processor.encode(text)

    def decode(self, ids: list[int]) -> str:
        return self._processor.decode([token for token in ids if not self._processor.is_control(token)])

    def id_of(self, token: str) -> int | None:
        index = self._processor.piece_to_id(token)
        return index if self._processor.id_to_piece(index) == token else None

    def token(self, index: int) -> str:
        return self._processor.id_to_piece(index)

    def save(self, folder: Path) -> Path:
        return _write_atomically(folder / "tokenizer.model", self._model)


def _write_atomically(path: Path, content: bytes) -> Path:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(content)
    temporary.replace(path)
    return path


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (every string can be encoded) on `texts`.

    Args:
      texts: training text; what is to be a single token should occur as often as it will at work.
      vocab_size: rows of the LLM's embedding. Few texts may give fewer entries; the rest of the rows stay unused.

    Raises:
      TokenizerError: when `vocab_size` does not hold the 256 bytes and 3 special tokens, or there is no text.
    """
    if vocab_size < _SMALLEST:
        raise TokenizerError(f"vocab_size {vocab_size} is too small: 256 bytes and 3 special tokens need {_SMALLEST}")
    texts = [text for text in texts if text]
    if not texts:
        raise TokenizerError("no text to train a tokenizer on")
    tokenizer = tokenizers.Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=vocab_size,
            min_frequency=2,
            special_tokens=[_PAD, _BOS, _EOS],
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
            show_progress=False,
        ),
    )
    backend = _Fast(tokenizer.to_str())
    ids = [backend.id_of(token) for token in (_PAD, _BOS, _EOS)]
    return Tokenizer(backend, vocab_size=vocab_size, pad_id=ids[0], bos_id=ids[1], eos_id=ids[2])


def load(path: Path | str, *, vocab_size: int | None = None) -> Tokenizer:
    """Load what `Tokenizer.save` wrote, or the folder of a Llama checkpoint (tokenizer.model or tokenizer.json).

    Args:
      path: the folder, or the file itself. Where both files are there, `tokenizer.model` is used: it is the original.
      vocab_size: rows of the model's embedding, where they are more than the tokenizer has entries; by default those
        of `tokenizer_config.json` or `config.json` beside it, else the number of entries.

    Raises:
      TokenizerError: nothing to load, an unreadable file, or one without a begin or end token.
    """
    path = Path(path)
    candidates = [path] if path.is_file() else [path / "tokenizer.model", path / "tokenizer.json"]
    file = next((candidate for candidate in candidates if candidate.is_file()), None)
    if file is None:
        raise TokenizerError(f"{path}: no tokenizer.model or tokenizer.json here")
    try:
        backend = _SentencePiece(file.read_bytes()) if file.suffix == ".model" else _Fast(file.read_text("utf-8"))
    except Exception as error:  # both libraries raise bare Exception or RuntimeError for a broken file
        raise TokenizerError(f"{file}: not a tokenizer that can be read ({error})") from error
    settings = _read_json(file.parent / "special_tokens_map.json") | _read_json(file.parent / "tokenizer_config.json")
    model = _read_json(file.parent / "config.json")
    bos = _special(backend, settings, "bos_token", (_BOS, "<|begin_of_text|>"), file)
    eos = _special(backend, settings, "eos_token", (_EOS, "<|end_of_text|>", "<|eot_id|>"), file)
    pad = _special(backend, settings, "pad_token", (_PAD, "<unk>"), None)
    if vocab_size is None:
        vocab_size = max(backend.size, settings.get("vocab_size") or 0, model.get("vocab_size") or 0)
    return Tokenizer(
        backend,
        vocab_size=vocab_size,
        pad_id=eos if pad is None else pad,
        bos_id=bos,
        eos_id=eos,
        dummy_prefix=backend.dummy_prefix,
    )


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        return json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise TokenizerError(f"{path}: not JSON ({error})") from error


def _special(backend, settings: dict, name: str, usual: tuple[str, ...], file: Path | None) -> int | None:
    """Id of a special token: as configured, else under one of its usual names; an error names `file` when given."""
    configured = settings.get(name)
    if isinstance(configured, dict):  # transformers writes an AddedToken as an object
        configured = configured.get("content")
    for token in (configured, *usual) if configured else usual:
        index = backend.id_of(token)
        if index is not None:
            return index
    if file is not None:
        raise TokenizerError(f"{file}: no {name} (looked for {', '.join(usual)}); name it in tokenizer_config.json")
    return None
