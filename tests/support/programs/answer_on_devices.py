"""Answer with a run on all devices and on the first, and print where they differ: ... PARTS MESHES.

PARTS is "all", or "words" for a text-only run and no conversation; MESHES is JSON, [[data, fsdp, tensor], ...].
"""

import functools
import json
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from flax import nnx

from empatheia_jax.checkpoints.model_inputs import write_model_inputs
from empatheia_jax.checkpoints.runs import Checkpoints, Position, save_base
from empatheia_jax.checkpoints.workdir import save_config
from empatheia_jax.config import Config, MeshConfig
from empatheia_jax.data.features.store import store_settings
from empatheia_jax.encoders import build_encoders
from empatheia_jax.generators.build import build_generators
from empatheia_jax.inference.conversation import Conversation
from empatheia_jax.inference.load import load_engine
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.planning.local import config_widths
from empatheia_jax.testing.tiny import FAST, make_examples, make_store, make_tokenizer, replace_fields, small_config

BATCH, LIMIT = 4, 12
jax.jit = functools.partial(jax.jit, compiler_options=FAST)  # takes longer to compile than to run


def write_run(folder: Path, config: Config) -> None:
    """Write a run that has reached its end, of random parameters."""
    one_device = sharding.make_mesh(MeshConfig(1, 1, 1), jax.devices()[:1])
    _, abstract = abstract_model(config, config_widths(config), one_device)
    rng = np.random.default_rng(0)
    flat = [
        (path, leaf.replace(jax.numpy.asarray(("norm" in str(path)) + rng.normal(0, 0.3, leaf.shape), "float32")))
        for path, leaf in nnx.to_flat_state(abstract)
    ]
    state = nnx.from_flat_state(flat)
    save_config(folder, config)
    make_tokenizer().save(folder / "tokenizer")
    if config.modalities:
        settings = store_settings(build_encoders(config.encoders), *build_generators(config.generators))
        write_model_inputs(folder, settings)
    save_base(folder / "base", nnx.filter_state(state, in_groups(("base",))))
    checkpoints = Checkpoints(folder / "checkpoints")
    checkpoints.save(Position(9, 5, 0), nnx.filter_state(state, in_groups(ADAPTED)), {"count": np.zeros(1)})
    checkpoints.close()


def answer(folder: Path, config: Config, mesh: MeshConfig | None, parts: str) -> tuple[list, list, dict]:
    """Return the token ids of answers, their arrays, and into how many parts weights and cache are split."""
    engine = load_engine(folder, batch=BATCH, max_new_tokens=LIMIT, mesh=mesh)
    ids, read = [], engine.read

    def read_and_note(decode_state, sequences, prompts, texts):
        ids.extend(texts)
        return read(decode_state, sequences, prompts, texts)

    engine.read = read_and_note
    examples = make_examples(2, turns=1)
    widths = config_widths(config)
    features, arrays = make_store(examples, widths=widths).get if widths else (lambda key: None), []
    answers = engine.answer(examples, features, [None] * len(examples))
    if parts == "all":
        conversation = Conversation(engine)
        answers += [conversation.answer(example, features, None) for example in examples]
        states = np.random.default_rng(0).normal(size=(5, config.llm.width)).astype(np.float32)
        phonemes, durations = np.arange(7, dtype=np.int32), np.full(7, 3, np.int32)
        arrays += [engine.speech_content(states, phonemes), engine.video_content(states, phonemes, durations, 13)]
    for given in answers:
        arrays += [given.response_states, given.style_speech, given.style_video, *given.labels.values()]
    kernel = engine.state["llm"]["layers"]["q_proj"]["kernel"][...]
    placed = {"kernel": kernel, "cache": engine.empty_decode_state(BATCH, 64).cache.keys}
    split = {
        name: [size // part for size, part in zip(array.shape, array.sharding.shard_shape(array.shape), strict=True)]
        for name, array in placed.items()
    }
    return ids, arrays, split


parts, meshes = sys.argv[1], json.loads(sys.argv[2])
config = replace_fields(
    small_config(**({} if parts == "all" else {"modalities": ()})), "llm", tie_embeddings=False, layers=1
)
config = replace_fields(config, "latents", encoder_layers=1, decoder_layers=1)
with tempfile.TemporaryDirectory() as name:
    folder = Path(name) / "run"
    write_run(folder, config)
    ids, arrays, _ = answer(folder, config, None, parts)
    report = {"devices": len(jax.devices()), "ids": ids, "meshes": []}
    for sizes in meshes:
        mesh_ids, mesh_arrays, split = answer(folder, config, MeshConfig(*sizes), parts)
        worst = max(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(mesh_arrays, arrays, strict=True))
        report["meshes"].append({"ids": mesh_ids, "worst": worst, "split": split})
print(json.dumps(report))
