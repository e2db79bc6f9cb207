"""The tokenizer in a GGUF file -> the files that transformers and our prompts read.

Byte-level BPE ("gpt2") becomes a tokenizer.json, SentencePiece's BPE ("llama") a tokenizer.model. How text is cut
before BPE is only named in a GGUF file (`tokenizer.ggml.pre`); a name that is not known is refused, since any other
cut gives other tokens.
"""

import json
from typing import Any

import numpy as np

from converters.gguf_files import GgufFile
from converters.tensors import ConversionError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)"
_LLAMA3 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}|"
    r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
CUTS: dict[str, tuple[str, ...]] = {  # each pattern cuts what the one before it left
    "gpt-2": (_GPT2,),
    "smollm": (r"\p{N}", _GPT2),
    "llama-bpe": (_LLAMA3,),
    "default": (r"[\p{P}\$\+<=>\^~\|]+", _GPT2, r"\p{N}+", r"[0-9][0-9][0-9]"),
}
_WHOLE_WORDS_FIRST = ("llama-bpe",)  # a piece that is a token is not merged from its characters
_ADDS_BOS = ("llama-bpe",)  # where the file does not say
_UNKNOWN, _CONTROL, _USER, _BYTE = 2, 3, 4, 6  # token types; SentencePiece's own numbers
_PREFIX = "tokenizer.ggml."


def tokenizer_files(file: GgufFile, vocab_size: int) -> dict[str, bytes]:
    """Return name -> contents of the tokenizer's files.

    Args:
      file: the GGUF file.
      vocab_size: rows of the embedding.
    Raises:
      ConversionError: no tokenizer, one of a kind that is not known, or one that contradicts itself or the embedding.
    """
    fields = {key.removeprefix(_PREFIX): value for key, value in file.metadata.items() if key.startswith(_PREFIX)}
    kind, tokens = fields.get("model"), _texts(fields.get("tokens"))
    if kind not in ("gpt2", "llama"):
        raise ConversionError(f"{file.path}: tokenizer {kind!r}; known are 'gpt2' (BPE) and 'llama' (SentencePiece)")
    if len(tokens) != vocab_size:
        raise ConversionError(f"{file.path}: {len(tokens)} tokens, and an embedding of {vocab_size}")
    if len(set(tokens)) != len(tokens):
        twice = next(token for index, token in enumerate(tokens) if tokens.index(token) != index)
        raise ConversionError(f"{file.path}: the token {twice!r} stands twice in its tokenizer")
    types = np.asarray(fields.get("token_type", np.ones(len(tokens), np.int32)))
    if types.shape != (len(tokens),):
        raise ConversionError(f"{file.path}: {types.size} token types for {len(tokens)} tokens")
    special = _special_tokens(file, fields, tokens)
    settings: dict[str, Any] = {
        **special,
        "model_max_length": file.metadata.get("llama.context_length"),
        "clean_up_tokenization_spaces": False,
        "add_bos_token": bool(fields.get("add_bos_token", kind == "llama" or fields.get("pre") in _ADDS_BOS)),
        "add_eos_token": bool(fields.get("add_eos_token", False)),
    }
    if isinstance(template := file.metadata.get("tokenizer.chat_template"), str):
        settings["chat_template"] = template
    if kind == "gpt2":
        contents = {"tokenizer.json": _byte_level_bpe(file, fields, types, settings)}
        settings["tokenizer_class"] = "PreTrainedTokenizerFast"
    else:
        contents = {"tokenizer.model": _sentencepiece(file, fields, types, settings)}
        settings |= {"tokenizer_class": "LlamaTokenizer", "legacy": True}
    return contents | {"tokenizer_config.json": _to_json(settings)}


def _texts(value: object) -> list[str]:
    return value if isinstance(value, list) else []


def _to_json(value) -> bytes:
    return (json.dumps(value, ensure_ascii=False, indent=1) + "\n").encode()


def _special_tokens(file: GgufFile, fields: dict, tokens: list[str]) -> dict[str, str]:
    special = {}
    for key, name in (("bos", "bos"), ("eos", "eos"), ("padding", "pad"), ("unknown", "unk")):
        index = fields.get(f"{key}_token_id")
        if index is None:
            continue
        if not isinstance(index, int) or not 0 <= index < len(tokens):
            raise ConversionError(f"{file.path}: {_PREFIX}{key}_token_id is {index!r}, of {len(tokens)} tokens")
        special[f"{name}_token"] = tokens[index]
    return special


def _byte_level_bpe(file: GgufFile, fields: dict, types: np.ndarray, settings: dict) -> bytes:
    """Return a tokenizer.json.

    Raises:
      ConversionError: an unknown cut, no merges, or merges that are not of the vocabulary.
    """
    import tokenizers

    cut, tokens, merges = fields.get("pre", "default"), fields["tokens"], _texts(fields.get("merges"))
    if cut not in CUTS:
        raise ConversionError(
            f"{file.path}: {_PREFIX}pre is {cut!r}: how it cuts text is not known ({', '.join(CUTS)})"
        )
    if not merges:
        raise ConversionError(f"{file.path}: a BPE tokenizer without merges")
    vocabulary = {token: index for index, token in enumerate(tokens)}
    pairs = [tuple(merge.split(" ")) for merge in merges]
    for merge, pair in zip(merges, pairs, strict=True):
        if len(pair) != 2 or not {*pair, "".join(pair)} <= vocabulary.keys():
            raise ConversionError(f"{file.path}: the merge {merge!r} is not of its tokens")
    added = [index for index, kind in enumerate(types) if kind in (_CONTROL, _USER)]
    begin, end = (
        [settings[f"{name}_token"]] if settings[f"add_{name}_token"] and f"{name}_token" in settings else []
        for name in ("bos", "eos")
    )
    spec = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {
                "id": index,
                "content": tokens[index],
                "single_word": False,
                "lstrip": False,
                "rstrip": False,
                "normalized": False,
                "special": bool(types[index] == _CONTROL),
            }
            for index in added
        ],
        "normalizer": None,
        "pre_tokenizer": {
            "type": "Sequence",
            "pretokenizers": [
                *(
                    {"type": "Split", "pattern": {"Regex": p}, "behavior": "Isolated", "invert": False}
                    for p in CUTS[cut]
                ),
                _byte_level(add_prefix_space=bool(fields.get("add_space_prefix", False)), use_regex=False),
            ],
        },
        "post_processor": _template(begin, end, vocabulary),
        "decoder": _byte_level(add_prefix_space=True, use_regex=True),
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": cut in _WHOLE_WORDS_FIRST,
            "vocab": vocabulary,
            "merges": pairs,
        },
    }
    contents = _to_json(spec)
    try:
        tokenizers.Tokenizer.from_buffer(contents)
    except Exception as error:  # the library raises bare Exception
        raise ConversionError(f"{file.path}: its tokenizer cannot be rebuilt ({error})") from error
    return contents


def _byte_level(**options: bool) -> dict:
    return {"type": "ByteLevel", "trim_offsets": True, **options}


def _template(begin: list[str], end: list[str], vocabulary: dict[str, int]) -> dict | None:
    """Return the post-processor that puts begin and end tokens around a text."""
    if not begin and not end:
        return None

    def tokens(names: list[str], kind: int) -> list[dict]:
        return [{"SpecialToken": {"id": name, "type_id": kind}} for name in names]

    def text(name: str, kind: int) -> list[dict]:
        return [*tokens(begin, kind), {"Sequence": {"id": name, "type_id": kind}}, *tokens(end, kind)]

    return {
        "type": "TemplateProcessing",
        "single": text("A", 0),
        "pair": [*text("A", 0), *text("B", 1)],
        "special_tokens": {name: {"id": name, "ids": [vocabulary[name]], "tokens": [name]} for name in {*begin, *end}},
    }


def _sentencepiece(file: GgufFile, fields: dict, types: np.ndarray, settings: dict) -> bytes:
    """Return a tokenizer.model; its normaliser is the identity, or the table that the file has.

    Raises:
      ConversionError: no scores, no unknown token, or pieces that SentencePiece refuses.
    """
    import sentencepiece
    from sentencepiece import sentencepiece_model_pb2

    messages: Any = sentencepiece_model_pb2  # its classes are made at run time
    tokens, scores = fields["tokens"], np.asarray(fields.get("scores", ()))
    if scores.shape != (len(tokens),) or scores.dtype.kind != "f" or not np.isfinite(scores).all():
        raise ConversionError(f"{file.path}: {scores.size} finite scores for {len(tokens)} tokens of SentencePiece")
    unknown = np.flatnonzero(types == _UNKNOWN)
    if len(unknown) != 1 or not np.isin(types, range(1, 7)).all():
        raise ConversionError(
            f"{file.path}: {len(unknown)} unknown tokens in its tokenizer, or token types beyond 1..6"
        )
    proto = messages.ModelProto()
    for token, score, kind in zip(tokens, scores, types, strict=True):
        proto.pieces.add(piece=token, score=float(score), type=int(kind))
    trainer, normalizer = proto.trainer_spec, proto.normalizer_spec
    trainer.model_type = trainer.BPE
    trainer.vocab_size, trainer.byte_fallback = len(tokens), bool((types == _BYTE).any())
    trainer.unk_id, trainer.unk_piece = int(unknown[0]), tokens[unknown[0]]
    for name in ("bos", "eos", "pad"):
        token = settings.get(f"{name}_token")
        setattr(trainer, f"{name}_id", -1 if token is None else tokens.index(token))
        if token is not None:
            setattr(trainer, f"{name}_piece", token)
    normalizer.name, normalizer.escape_whitespaces = "identity", True
    normalizer.add_dummy_prefix = bool(fields.get("add_space_prefix", True))
    normalizer.remove_extra_whitespaces = bool(fields.get("remove_extra_whitespaces", False))
    if "precompiled_charsmap" in fields:
        normalizer.precompiled_charsmap = np.asarray(fields["precompiled_charsmap"]).astype(np.uint8).tobytes()
    contents = proto.SerializeToString()
    try:
        sentencepiece.SentencePieceProcessor(model_proto=contents).encode("a")
    except Exception as error:  # bare RuntimeError, or an error of the library's own
        raise ConversionError(f"{file.path}: its tokenizer cannot be rebuilt ({error})") from error
    return contents
