"""What a run learns from: Examples, tokenizer and stored features, and whether they belong to the config."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from empatheia_jax import processes
from empatheia_jax.config import Config, DataConfig, MixConfig
from empatheia_jax.data import avamerg, tokenizer
from empatheia_jax.data.encoded import prompt_profile
from empatheia_jax.data.features import FeatureStore, MixedStores, expected_settings
from empatheia_jax.data.pipeline import feature_statistics, widths_of
from empatheia_jax.data.prompts import Text, render_prompt, render_target
from empatheia_jax.data.schema import Example, Widths
from empatheia_jax.empatheia import Statistics
from empatheia_jax.encoders import build_encoders
from empatheia_jax.weights import is_weights, read_facts

FACE_PARTS = ("denoiser", "wav2vec", "face3d")  # of DreamTalk's folder, on which its golds depend


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples, tokenizer and stored features of a run."""

    train: list[Example]  # of `data.path`, then of each of `data.mix`
    validation: list[Example]
    tokenizer: tokenizer.Tokenizer
    store: FeatureStore | MixedStores | None
    widths: Widths | None
    statistics: Statistics  # of the stored training features
    corpora: tuple[tuple[int, float], ...] = ()  # (Examples, share) of each part of `train`; (): one, each once


def load_data(folder: Path, config: Config) -> Data:
    """Read the training and validation Examples; train or load the tokenizer; open the feature store.

    Raises:
      RecordError: nothing to read or a bad record. StoreError: no complete feature store of these settings.
      TokenizerError: a tokenizer that cannot be trained or loaded.
    """
    data = config.data
    read = {}
    for split_name in ("train", "validation"):
        read[split_name], report = avamerg.read_examples(
            Path(data.path),
            split_name,
            on_error=data.on_error,
            validation_share=data.validation_share,
            max_turns=data.max_turns,
        )
        processes.say(f"data     {split_name}: {len(read[split_name])} Examples; {report.summary()}")
    store = None
    if config.modalities:
        store = open_store(folder, config)
    statistics = feature_statistics(store, read["train"]) if store else {}
    corpora = [(len(read["train"]), 1.0)]
    for mix in data.mix:
        found = _mixed(mix, data)
        corpora.append((len(found), mix.share))
        read["train"] += found
    if data.mix and store is not None:
        stores = {mix.name: open_store(folder, config, mix.features) if mix.features else None for mix in data.mix}
        store = MixedStores(store, stores)
    words = load_tokenizer(folder, config, read["train"])
    widths = widths_of(store) if store is not None else None
    return Data(read["train"], read["validation"], words, store, widths, statistics, tuple(corpora) if data.mix else ())


def _mixed(mix: MixConfig, data: DataConfig) -> list[Example]:
    """Every Example of a corpus that is mixed in, told from others' by its name."""
    found, report = avamerg.read_examples(
        Path(mix.path), "train", on_error=data.on_error, validation_share=0.0, max_turns=data.max_turns
    )
    processes.say(f"data     {mix.name}, {mix.share:g} of it an epoch: {len(found)} Examples; {report.summary()}")
    return [dataclasses.replace(one, id=f"{mix.name}/{one.id}", split=f"{mix.name}/{one.split}") for one in found]


def open_store(folder: Path, config: Config, features: str = "") -> FeatureStore:
    """The run's feature store (`features`, else `data.features`, else `folder`/features).

    Raises:
      StoreError: none there, incomplete, damaged, or made by other encoders or generators than the config's.
    """
    generators = config.generators
    speech, face = ({"name": generators.golds_of[kind]} for kind in ("speech", "face"))
    if generators.speech_weights and is_weights(generators.speech_weights):
        speech["weights"] = read_facts(generators.speech_weights)["sha256"]
    for part in FACE_PARTS if generators.face_weights else ():
        if is_weights(folder := Path(generators.face_weights) / part):
            face[f"weights_{part}"] = read_facts(folder)["sha256"]
    expected = expected_settings(build_encoders(config.encoders), speech, face)
    return FeatureStore(Path(features or config.data.features or folder / "features"), expected)


def load_tokenizer(folder: Path, config: Config, examples: list[Example]) -> tokenizer.Tokenizer:
    """The run's tokenizer: a BPE trained on the training text for a scratch base, else the base's own."""
    place = folder / "tokenizer"
    # One process makes it, so that no other reads it half written.
    processes.by_first("tokenizer", lambda: _make_tokenizer(place, config, examples))
    return tokenizer.load(place)


def _make_tokenizer(place: Path, config: Config, examples: list[Example]) -> None:
    if place.exists():
        return
    if config.base != "scratch":
        loaded = tokenizer.load(config.base, vocab_size=config.llm.vocab_size)
    else:
        loaded = tokenizer.train_bpe(list(training_texts(examples, config)), config.llm.vocab_size)
    loaded.save(place)


def training_texts(examples: list[Example], config: Config) -> Iterator[str]:
    """What the LLM reads and writes in training, in pieces: what a scratch base's tokenizer is trained on."""
    for example in examples:
        pieces = render_prompt(
            example, "all", profile=prompt_profile(example, config), instruction="short", modalities=config.modalities
        )
        pieces = [*pieces, *(render_target(example.chain, example.response.text) if example.response else [])]
        yield from (piece.text for piece in pieces if isinstance(piece, Text))
