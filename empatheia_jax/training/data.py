"""The data of a run: Examples, tokenizer and stored features, checked against the config."""

import dataclasses
from collections.abc import Iterator
from pathlib import Path

from empatheia_jax.checkpoints.answer_lengths import write_answer_lengths
from empatheia_jax.checkpoints.model_inputs import write_model_inputs
from empatheia_jax.checkpoints.workdir import open_store
from empatheia_jax.config import Config, DataConfig, MixConfig
from empatheia_jax.data.batches.encoder import prompt_profile
from empatheia_jax.data.batches.pipeline import feature_statistics, store_widths
from empatheia_jax.data.corpus import avamerg
from empatheia_jax.data.features.records import StoreError
from empatheia_jax.data.features.store import FeatureStore, MixedStores
from empatheia_jax.data.prompts import tokenizer
from empatheia_jax.data.prompts.dialogue import Text, encode_target, render_prompt, render_target
from empatheia_jax.data.schema import Example, Widths
from empatheia_jax.model.empatheia import Statistics
from empatheia_jax.runtime import processes


@dataclasses.dataclass(frozen=True)
class Data:
    """Examples, tokenizer and stored features of a run."""

    train: list[Example]  # of `data.path`, then of each of `data.mix`
    validation: list[Example]
    tokenizer: tokenizer.Tokenizer
    store: FeatureStore | MixedStores | None
    widths: Widths | None
    statistics: Statistics  # of the stored training features
    # (Examples, share) of each corpus in `train`; (): one corpus, each Example once.
    corpora: tuple[tuple[int, float], ...] = ()


def load_data(folder: Path, config: Config) -> Data:
    """Read the training and validation Examples; train or load the tokenizer; open the feature store.

    Raises:
      RecordError: nothing to read, or a bad record.
      StoreError: no complete feature store of these settings, or of another division into splits.
      TokenizerError: the tokenizer cannot be trained or loaded.
    """
    data = config.data
    splits = {}
    for split_name in ("train", "validation"):
        splits[split_name], report = avamerg.read_examples(
            Path(data.path),
            split_name,
            on_error=data.on_error,
            validation_share=data.validation_share,
            max_turns=data.max_turns,
        )
        processes.log_on_first(f"data     {split_name}: {len(splits[split_name])} Examples; {report.summary()}")
    store = None
    if config.modalities:
        store = open_store(folder, config)
        check_division(store, splits["train"], splits["validation"])
    statistics = feature_statistics(store, splits["train"]) if store else {}
    corpora = [(len(splits["train"]), 1.0)]
    for mix in data.mix:
        examples = _read_mixed(mix, data)
        corpora.append((len(examples), mix.share))
        splits["train"] += examples
    if data.mix and store is not None:
        stores = {mix.name: open_store(folder, config, mix.features) if mix.features else None for mix in data.mix}
        store = MixedStores(store, stores)
    run_tokenizer = load_tokenizer(folder, config, splits["train"])
    lengths = answer_lengths(splits["train"], run_tokenizer)
    processes.run_on_first("answer lengths", lambda: write_answer_lengths(folder, lengths))
    widths = None
    if store is not None:
        settings, widths = store.settings, store_widths(store)
        processes.run_on_first("model inputs", lambda: write_model_inputs(folder, settings))
    return Data(
        splits["train"],
        splits["validation"],
        run_tokenizer,
        store,
        widths,
        statistics,
        tuple(corpora) if data.mix else (),
    )


def check_division(store: FeatureStore, train: list[Example], validation: list[Example]) -> None:
    """Check that the store was made with the present division of train.json into training and validation dialogues.

    The keys of a store begin with the split, so features of dialogues that have changed sides would not be read.

    Raises:
      StoreError: it was made with another `data.validation_share`, or from a corpus with another validation split.
    """
    for examples, split, others in ((train, "train", validation), (validation, "validation", train)):
        other = "validation" if split == "train" else "train"
        present = {example.conversation_id for example in others}
        moved = {
            example.conversation_id
            for example in examples
            if example.conversation_id not in present
            for utterance in example.utterances
            if f"{other}/{example.conversation_id}/{utterance.index}" in store
            and example.utterance_key(utterance) not in store
        }
        if moved:
            raise StoreError(
                f"{store.directory}: {len(moved)} dialogues of the {split} split were extracted as {other} data, "
                f"dialogue {min(moved)} among them: set data.validation_share as it was for `empatheia extract`, or "
                "extract again"
            )


def _read_mixed(mix: MixConfig, data: DataConfig) -> list[Example]:
    """Read every Example of a corpus that is mixed in; its name is put before their ids and splits."""
    examples, report = avamerg.read_examples(
        Path(mix.path), "train", on_error=data.on_error, validation_share=0.0, max_turns=data.max_turns
    )
    processes.log_on_first(
        f"data     {mix.name}, {mix.share:g} of it an epoch: {len(examples)} Examples; {report.summary()}"
    )
    return [dataclasses.replace(e, id=f"{mix.name}/{e.id}", split=f"{mix.name}/{e.split}") for e in examples]


def load_tokenizer(folder: Path, config: Config, examples: list[Example]) -> tokenizer.Tokenizer:
    """Load the run's tokenizer: a BPE trained on the training text for a scratch base, else the base's own."""
    path = folder / "tokenizer"
    # One process writes it, so that no other reads it half written.
    processes.run_on_first("tokenizer", lambda: _write_tokenizer(path, config, examples))
    return tokenizer.load(path)


def _write_tokenizer(path: Path, config: Config, examples: list[Example]) -> None:
    if path.exists():
        return
    if config.base != "scratch":
        created = tokenizer.load(config.base, vocab_size=config.llm.vocab_size)
    else:
        created = tokenizer.train_bpe(list(training_texts(examples, config)), config.llm.vocab_size)
    created.save(path)


def training_texts(examples: list[Example], config: Config) -> Iterator[str]:
    """Yield the text that the LLM reads and writes in training, which a scratch base's tokenizer is trained on."""
    for example in examples:
        pieces = render_prompt(
            example, "all", profile=prompt_profile(example, config), instruction="short", modalities=config.modalities
        )
        pieces = [*pieces, *(render_target(example.chain, example.response.text) if example.response else [])]
        yield from (piece.text for piece in pieces if isinstance(piece, Text))


def answer_lengths(examples: list[Example], tokenizer: tokenizer.Tokenizer) -> list[int]:
    """Return the tokens of every Example's answer, from its chain to its response, </s> not counted."""
    targets = [encode_target(tokenizer, e.chain, e.response.text) for e in examples if e.response is not None]
    return [target.response_span[1] for target in targets]
