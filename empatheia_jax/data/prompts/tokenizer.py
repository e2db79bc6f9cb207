"""Tokenizers: a byte-level BPE trained on the run's text, or the tokenizer of a Llama checkpoint.

The 34 new tokens stand beside the base vocabulary, never inside it: their ids start at `vocab_size`, so the frozen
embedding of a base model is untouched (they have their own small table in the model).

Text is encoded as *continuing* text: no beginning-of-text token and no leading dummy space are added, so that the ids
of the pieces of a prompt can be joined as lists. `data/prompts/dialogue.py` adds both where a prompt begins.
"""

import json
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import sentencepiece
import tokenizers
from tokenizers import decoders, models, pre_tokenizers, trainers

from empatheia_jax.runtime.atomic import replacing, write_json

SIGNALS = 16  # generation signals of a modality
AUDIO_SLOT, VIDEO_SLOT = "<Aud>", "<Vid>"
AUDIO_SIGNALS = tuple(f"<AUD{number}>" for number in range(1, SIGNALS + 1))
VIDEO_SIGNALS = tuple(f"<VID{number}>" for number in range(1, SIGNALS + 1))
NEW_TOKENS = (AUDIO_SLOT, VIDEO_SLOT, *AUDIO_SIGNALS, *VIDEO_SIGNALS)
"""Appendix D.1: two placeholders and 2 x 16 generation signals, in the order of their ids."""

_PAD, _BOS, _EOS = "<pad>", "<s>", "</s>"
_MIN_VOCAB_SIZE = 3 + 256  # the three special tokens and one entry a byte


class TokenizerError(ValueError):
    """A tokenizer cannot be trained or loaded, or does not have an id."""


class Tokenizer:
    """A base vocabulary of `vocab_size` entries, and after it the 34 `NEW_TOKENS`.

    Attributes:
      vocab_size: entries of the base vocabulary, as many as the LLM's own embedding has.
      pad_id: id of the padding token, inside the base vocabulary.
      bos_id: id of <s>.
      eos_id: id of </s>.
      dummy_prefix: whether the base model saw a space before the first word of a text (Llama 1/2, Vicuna).
    """

    def __init__(self, backend, *, vocab_size: int, pad_id: int, bos_id: int, eos_id: int, dummy_prefix: bool = False):
        """Wrap a `_Fast` or `_SentencePiece` as `backend`; call `train_bpe` or `load` instead."""
        if backend.size > vocab_size:
            raise TokenizerError(
                f"the tokenizer has {backend.size} entries, more than the {vocab_size} of the embedding: "
                "tokenizer and model do not belong together"
            )
        self._backend = backend
        self.vocab_size, self.dummy_prefix = vocab_size, dummy_prefix
        self.pad_id, self.bos_id, self.eos_id = pad_id, bos_id, eos_id
        self._new_ids = {token: vocab_size + index for index, token in enumerate(NEW_TOKENS)}

    def __len__(self) -> int:
        """Return the number of all ids: base vocabulary and new tokens."""
        return self.vocab_size + len(NEW_TOKENS)

    def token_id(self, token: str) -> int:
        """Return the id of one of `NEW_TOKENS`, such as "<AUD3>"."""
        return self._new_ids[token]

    @property
    def signal_ids(self) -> list[int]:
        """Ids of <AUD1..16> <VID1..16>, in this order."""
        return [self._new_ids[token] for token in (*AUDIO_SIGNALS, *VIDEO_SIGNALS)]

    def encode(self, text: str) -> list[int]:
        """Return the ids of continuing text. Special or new tokens written in `text` are plain characters here."""
        return self._backend.encode(text)

    def decode(self, ids: Sequence[int]) -> str:
        """Return the text of `ids`; special and new tokens have none. Undecodable bytes become U+FFFD.

        Raises:
          TokenizerError: for an id that is negative or past the last new token.
        """
        ids = [int(token) for token in ids]
        out_of_range = [token for token in ids if not 0 <= token < len(self)]
        if out_of_range:
            raise TokenizerError(f"id {out_of_range[0]} is outside 0..{len(self) - 1}")
        return self._backend.decode([token for token in ids if token < self._backend.size])

    def save(self, folder: Path | str) -> Path:
        """Write the base vocabulary into `folder` so that `load` reads it back; return the file."""
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        special = {"pad_token": self.pad_id, "bos_token": self.bos_id, "eos_token": self.eos_id}
        names = {name: self._backend.token(index) for name, index in special.items()}
        write_json(folder / "tokenizer_config.json", {"vocab_size": self.vocab_size, **names})
        file_name, content = self._backend.file
        with replacing(folder / file_name) as temporary:
            temporary.write_bytes(content)
        return folder / file_name


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

    def token(self, index: int) -> str | None:
        return self._tokenizer.id_to_token(index)

    @property
    def file(self) -> tuple[str, bytes]:
        return "tokenizer.json", self._spec.encode()


def _drop_dummy_prefix(spec: dict) -> bool:
    """Remove the leading "▁" of Llama 1/2 from a tokenizer.json (in either form); return whether it had one."""
    has_prefix = False

    def remove(part: dict | None, children: str) -> dict | None:
        nonlocal has_prefix
        if part is None:
            return None
        if part["type"] == "Sequence":
            kept = [kept for child in part[children] if (kept := remove(child, children)) is not None]
            return {**part, children: kept} if kept else None
        if part["type"] == "Metaspace":
            has_prefix = has_prefix or part.get("prepend_scheme", "always") != "never"
            return {**{k: v for k, v in part.items() if k != "add_prefix_space"}, "prepend_scheme": "never"}
        if part["type"] == "Prepend":
            has_prefix = True
            return None
        is_space_strip = part["type"] == "Strip" and part.get("content") == " " and part.get("start", 0)
        return None if is_space_strip else part

    spec["normalizer"] = remove(spec.get("normalizer"), "normalizers")
    spec["pre_tokenizer"] = remove(spec.get("pre_tokenizer"), "pretokenizers")
    if has_prefix:
        spec["decoder"] = remove(spec.get("decoder"), "decoders")
    return has_prefix


class _SentencePiece:
    """A Llama `tokenizer.model`, made to encode continuing text."""

    def __init__(self, model: bytes):
        from sentencepiece import sentencepiece_model_pb2  # needs protobuf: only where such a file is read

        messages: Any = sentencepiece_model_pb2  # its classes are made at run time
        self._model = model
        proto = messages.ModelProto.FromString(model)
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

    @property
    def file(self) -> tuple[str, bytes]:
        return "tokenizer.model", self._model


def train_bpe(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """Train a byte-level BPE (every string can be encoded) on `texts`.

    Args:
      texts: training text; what is to be a single token should occur as often as it will at inference.
      vocab_size: size of the LLM's embedding. Few texts may give fewer entries; the rest stays unused.

    Raises:
      TokenizerError: when `vocab_size` does not hold the 256 bytes and 3 special tokens, or there is no text.
    """
    if vocab_size < _MIN_VOCAB_SIZE:
        raise TokenizerError(
            f"vocab_size {vocab_size} is too small: 256 bytes and 3 special tokens need {_MIN_VOCAB_SIZE}"
        )
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
    ids = {token: index for token in (_PAD, _BOS, _EOS) if (index := backend.id_of(token)) is not None}
    return Tokenizer(backend, vocab_size=vocab_size, pad_id=ids[_PAD], bos_id=ids[_BOS], eos_id=ids[_EOS])


def load(path: Path | str, *, vocab_size: int | None = None) -> Tokenizer:
    """Load what `Tokenizer.save` wrote, or the folder of a Llama checkpoint (tokenizer.model or tokenizer.json).

    Args:
      path: the folder, or the file itself. Where both files are there, `tokenizer.model` is used: it is the original.
      vocab_size: size of the model's embedding, where it is larger than the tokenizer; by default that of
        `tokenizer_config.json` or `config.json` beside it, else the number of entries.

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
    bos = _special_token_id(backend, settings, "bos_token", (_BOS, "<|begin_of_text|>"), file=file)
    eos = _special_token_id(backend, settings, "eos_token", (_EOS, "<|end_of_text|>", "<|eot_id|>"), file=file)
    pad = _special_token_id(backend, settings, "pad_token", (_PAD, "<unk>"), file=file, default=eos)
    if vocab_size is None:
        vocab_size = max(backend.size, settings.get("vocab_size") or 0, model.get("vocab_size") or 0)
    return Tokenizer(
        backend,
        vocab_size=vocab_size,
        pad_id=pad,
        bos_id=bos,
        eos_id=eos,
        dummy_prefix=backend.dummy_prefix,
    )


def _read_json(path: Path) -> dict:
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError) as error:
        raise TokenizerError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise TokenizerError(f"{path}: expected an object, found {type(content).__name__}")
    return content


def _special_token_id(
    backend: _Fast | _SentencePiece,
    settings: dict,
    name: str,
    usual: tuple[str, ...],
    *,
    file: Path,
    default: int | None = None,
) -> int:
    """Return the id of a special token.

    Args:
      backend: the tokenizer.
      settings: of the tokenizer, which may name the token.
      name: of its setting.
      usual: what it is called where it is not configured.
      file: of the tokenizer, for the error.
      default: its id where there is no such token.

    Raises:
      TokenizerError: there is neither a token nor a default.
    """
    configured = settings.get(name)
    if isinstance(configured, dict):  # transformers writes an AddedToken as an object
        configured = configured.get("content")
    for token in (configured, *usual) if configured else usual:
        index = backend.id_of(token)
        if index is not None:
            return index
    if default is None:
        raise TokenizerError(f"{file}: no {name} (looked for {', '.join(usual)}); name it in tokenizer_config.json")
    return default
