"""A small system for tests: config, tokenizer, dialogues, features, and a model whose every parameter matters."""

import contextlib
import dataclasses
from collections.abc import Iterator

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from empatheia_jax.config import (
    Config,
    DataConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    OptimConfig,
    ProjectorConfig,
    PromptConfig,
)
from empatheia_jax.data import emotions
from empatheia_jax.data.prompts import tokenizer
from empatheia_jax.data.schema import ChainOfEmpathy, Example, Profile, Utterance, Widths
from empatheia_jax.generators.interfaces import video_frame_count
from empatheia_jax.model.empatheia import Empatheia

WIDTHS = Widths(
    audio=(4, 6), video=(3, 5), symbols=178, content_speech=7, content_video=3, style_speech=6, style_video=5
)
_WORDS = "dog train bicycle letter garden exam kitchen violin bridge ticket camera blanket river lamp coat window"
THINGS = _WORDS.split()
FEELINGS = "glad scared lonely proud upset calm worried tired".split()


def small_config(**fields) -> Config:
    """Return a config with two layers of width 32, float32, without dropout; `fields` replaces its fields."""
    config = Config(
        name="small",
        llm=LlamaConfig(
            vocab_size=320,
            width=32,
            layers=2,
            heads=4,
            kv_heads=2,
            head_dim=8,
            mlp_width=48,
            max_length=512,
            compute_dtype="float32",
            param_dtype="float32",
            remat="none",
            tie_embeddings=True,
            init_std=0.15,
        ),
        lora=LoraConfig(rank=4, alpha=8.0, dropout=0.0),
        projector=ProjectorConfig(tokens=2, width=16, heads=2),
        latents=LatentConfig(width=16, heads=2, mlp_width=32, encoder_layers=2, decoder_layers=2, dropout=0.0),
        prompt=PromptConfig(instruction="short"),
        data=DataConfig(
            rows=2,
            row_tokens=512,
            row_examples=3,
            row_utterances=9,
            row_targets=448,
            response_tokens=24,
            phonemes=24,
            frames=40,
            modality_dropout=0.0,
            profile_dropout=0.0,
        ),
        optim=OptimConfig(accumulate=1),
    )
    return dataclasses.replace(config, **fields)


def replace_fields(config: Config, part: str, **fields) -> Config:
    """Return the config with fields of one part replaced."""
    return dataclasses.replace(config, **{part: dataclasses.replace(getattr(config, part), **fields)})


def make_examples(count: int, seed: int = 0, turns: int = 2) -> list[Example]:
    """Draw listener turns of `count` dialogues of `turns` turns, of varied lengths and labels."""
    rng = np.random.default_rng(seed)
    examples = []
    for dialogue in range(count):
        profile = Profile(
            str(rng.choice(emotions.AGES)), str(rng.choice(emotions.GENDERS)), str(rng.choice(emotions.TIMBRES))
        )
        history = []
        for turn in range(turns):
            thing, feeling = str(rng.choice(THINGS)), str(rng.choice(FEELINGS))
            others = " ".join(map(str, rng.choice(THINGS, rng.integers(0, 3))))
            history.append(Utterance(2 * turn, "speaker", f"I lost my {thing} {others}.".replace("  ", " ")))
            response = Utterance(2 * turn + 1, "listener", f"That {thing} was {feeling}.")
            chain = ChainOfEmpathy(
                f"losing a {thing}", str(rng.choice(emotions.FINE_EMOTIONS)), "it is gone", "comfort them"
            )
            conversation = f"d{dialogue:03d}"
            examples.append(
                Example(
                    f"train/{conversation}/{turn}",
                    "train",
                    conversation,
                    turn,
                    "Loss",
                    "",
                    tuple(history),
                    None,
                    profile,
                    chain,
                    response,
                )
            )
            history.append(response)
    return examples


def make_tokenizer(vocab_size: int = 320) -> tokenizer.Tokenizer:
    """Train a BPE with a few merges."""
    texts = [f"I lost my {a}. That {a} was {b}. Firstly, the emotion is" for a in THINGS for b in FEELINGS]
    return tokenizer.train_bpe(texts, vocab_size)


class Store(dict):
    """A feature store in memory, with the interface of `FeatureStore`."""

    dtype = np.dtype(np.float32)

    def get(self, key: str, content: bool = True):
        """Return the arrays of an utterance, or None."""
        return super().get(key)

    def gold_sizes(self, key: str) -> tuple[int, int] | None:
        """Return the numbers of phonemes and frames of an utterance with golds, or None."""
        arrays = self.get(key)
        return (len(arrays["phonemes"]), len(arrays["content_video"])) if arrays and "phonemes" in arrays else None


def make_store(examples: list[Example], seed: int = 1, widths: Widths = WIDTHS) -> Store:
    """Draw features of every utterance, and targets of every listener's."""
    rng, store = np.random.default_rng(seed), Store()

    def draw(*shape):
        return rng.normal(size=shape).astype(np.float32)

    for example in examples:
        for utterance in example.utterances:
            key = example.utterance_key(utterance)
            if key in store:
                continue
            store[key] = {"audio": draw(*widths.audio), "video": draw(*widths.video)}
            if utterance.role == "listener":
                phonemes = np.concatenate([[0], rng.integers(1, 178, rng.integers(5, 16))]).astype(np.int32)
                frames = rng.integers(1, 4, len(phonemes)).astype(np.int32)
                store[key] |= {
                    "phonemes": phonemes,
                    "phoneme_frames": frames,
                    "content_speech": draw(len(phonemes), widths.content_speech),
                    "content_video": draw(video_frame_count(frames), widths.content_video),
                    "style_speech": draw(widths.style_speech),
                    "style_video": draw(widths.style_video),
                }
    return store


def make_model(config: Config, widths: Widths | None = WIDTHS, seed: int = 0) -> Empatheia:
    """Make a model whose every parameter matters, adapters and biases too, without compiling anything."""
    graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Empatheia(config, widths, rngs=nnx.Rngs(0))))
    rng = np.random.default_rng(seed)
    flat = [(path, variable.replace(_draw(rng, path, variable))) for path, variable in nnx.to_flat_state(abstract)]
    return nnx.merge(graphdef, nnx.from_flat_state(flat))


def _draw(rng: np.random.Generator, path: tuple, variable) -> jax.Array:
    value, last = rng.normal(size=variable.shape), str(path[-1])
    if last in ("scale", "norm") or last.endswith("_norm"):
        value = 1.0 + 0.1 * value
    elif last == "bias":
        value = 0.05 * value - (4.0 if "log_variance" in path else 0.0)
    elif path[0] == "llm" or path[0] == "new_tokens":
        value = 0.15 * value
    elif last == "kernel":
        value = value / np.sqrt(variable.shape[-2])
    elif last == "gain":
        value = np.full(variable.shape, 0.15)
    return jnp.asarray(value, variable.dtype)


def make_engine(model: Empatheia, config: Config, *, batch: int = 2, max_new_tokens: int = 24):
    """Make an Engine on a model in memory, with the tokenizer of `make_tokenizer`."""
    from empatheia_jax.inference.engine import Engine

    return Engine(model, make_tokenizer(), config, batch=batch, max_new_tokens=max_new_tokens)


FAST = {"xla_backend_optimization_level": 0, "xla_llvm_disable_expensive_passes": True}
"""Compiler options for programs that run once."""


def leaves(state) -> dict[str, np.ndarray]:
    """Return {name: numpy array} of a state."""
    flat = nnx.to_flat_state(state)
    return {"/".join(map(str, path)): np.asarray(jax.device_get(v.get_value())) for path, v in flat}


@contextlib.contextmanager
def compilations(*words: str) -> Iterator[list[str]]:
    """Yield a list that grows with every compilation.

    Args:
      *words: list the events with one of these in their name, such as "trace"; without words, compilations alone.
    """
    events = []

    def listen(event, duration_secs, **_):
        if any(word in event for word in words or ("backend_compile",)):
            events.append(event)

    jax.monitoring.register_event_duration_secs_listener(listen)
    try:
        yield events
    finally:
        jax.monitoring.unregister_event_duration_listener(listen)
