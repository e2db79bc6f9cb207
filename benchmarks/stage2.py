"""Measure stage 2 with and without cached LLM states.

    python benchmarks/stage2.py [--smoke] [--record]

A Llama of 100 million parameters and a small content synchronizer, in float32 on a CPU. `computed` runs the LLM in
every step, `cached` reads the states from DIR/states: reading, placing and the step together. `alone` is the same step
on batches that are on the device already: the content synchronizer alone, the bound for `cached`. `fill` is the pass
that computes the states. `llm_to_synchronizer` compares model FLOPs; `7b_by_flops` is the same at the published sizes
and AvaMERG's lengths (85 phonemes, 142 frames).
"""

import dataclasses
import os
import tempfile
from pathlib import Path
from typing import Any

import measure

ARGS = measure.build_parser(__doc__).parse_args()
os.environ.setdefault("JAX_PLATFORMS", "cpu")  # all cores: the reading threads are part of the measurement

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from shapes import write_text_corpus  # noqa: E402

from empatheia_jax.checkpoints.runs import Base  # noqa: E402
from empatheia_jax.config import (  # noqa: E402
    Config,
    DataConfig,
    LatentConfig,
    LlamaConfig,
    LoraConfig,
    OptimConfig,
    ProjectorConfig,
    PromptConfig,
    StageConfig,
)
from empatheia_jax.config.load import load_config  # noqa: E402
from empatheia_jax.data.batches.pipeline import training_batches  # noqa: E402
from empatheia_jax.data.corpus.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.prompts import tokenizer  # noqa: E402
from empatheia_jax.data.schema import Widths  # noqa: E402
from empatheia_jax.model import sharding  # noqa: E402
from empatheia_jax.model.construct import abstract_model, initialise  # noqa: E402
from empatheia_jax.monitoring.clock import Clock  # noqa: E402
from empatheia_jax.planning import flops  # noqa: E402
from empatheia_jax.runtime.processes import global_batch  # noqa: E402
from empatheia_jax.training.compilation import compile_stage  # noqa: E402
from empatheia_jax.training.context import TrainingContext  # noqa: E402
from empatheia_jax.training.data import Data, training_texts  # noqa: E402
from empatheia_jax.training.stages import resolve_stages  # noqa: E402
from empatheia_jax.training.state_cache import cache_states  # noqa: E402

PUBLISHED = Path(__file__).parents[1] / "configs" / "vicuna_7b.py"
WIDTHS = Widths((4, 8), (4, 8), 178, 36, 5, 9, 13)  # the classical generators'
PHONEMES, FRAMES = 64, 96


class Golds(dict):
    """Random gold targets of every response in memory; reading them from disk is measured by `benchmarks/data.py`."""

    dtype = np.dtype(np.float16)

    def __init__(self, examples):
        rng = np.random.default_rng(0)
        super().__init__(
            {
                e.utterance_key(e.response): {
                    "phonemes": rng.integers(1, 178, PHONEMES).astype(np.int32),
                    "phoneme_frames": np.full(PHONEMES, 2, np.int32),
                    "content_speech": rng.normal(size=(PHONEMES, WIDTHS.content_speech)).astype(self.dtype),
                    "content_video": rng.normal(size=(FRAMES, WIDTHS.content_video)).astype(self.dtype),
                }
                for e in examples
            }
        )

    def get(self, key, content=True):
        """Do what `FeatureStore.get` does."""
        return super().get(key)

    def gold_sizes(self, key):
        """Do what `FeatureStore.gold_sizes` does."""
        return (PHONEMES, FRAMES) if key in self else None


def make_config(smoke: bool) -> Config:
    """Return a config with a Llama of 100M parameters, or a tiny one for a smoke test."""
    llm = (
        LlamaConfig.tiny(vocab_size=2048)
        if smoke
        else LlamaConfig(
            vocab_size=8192,
            width=768,
            layers=12,
            heads=12,
            kv_heads=12,
            head_dim=64,
            mlp_width=2048,
            max_length=1024,
            compute_dtype="float32",
            param_dtype="float32",
            tie_embeddings=False,
        )
    )
    return Config(
        name="stage2",
        llm=llm,
        lora=LoraConfig(rank=4),
        prompt=PromptConfig(instruction="coe"),
        projector=ProjectorConfig(tokens=1, width=16, heads=2),
        latents=LatentConfig(width=128, heads=4, mlp_width=512, encoder_layers=1, decoder_layers=1, dropout=0.0),
        data=DataConfig(
            rows=1,
            row_tokens=1024,
            row_examples=2,
            row_targets=512,
            response_tokens=32,
            phonemes=PHONEMES,
            frames=FRAMES,
        ),
        optim=OptimConfig(accumulate=2),
        stages={name: StageConfig(epochs=1) for name in "01234"},
    )


def flops_per_example(
    config: Config, tokens: float, widths: Widths, lengths: tuple[float, float, float]
) -> tuple[float, float]:
    """Return model FLOPs an Example: of the LLM forward, and of the content synchronizer forward and backward."""
    llm = flops.llama_projections(config.llm, tokens) + flops.llama_attention(config.llm, tokens, tokens / 2)
    return llm, 3 * flops.content_synchronizer(
        config.latents, config.llm.width, widths, response=lengths[0], phonemes=lengths[1], frames=lengths[2]
    )


def main(args) -> None:
    config, mesh = make_config(args.smoke), sharding.make_mesh(make_config(args.smoke).mesh)
    steps, repetitions = (2, 1) if args.smoke else (6, 3)
    with tempfile.TemporaryDirectory() as folder:
        write_text_corpus(Path(folder) / "words")
        examples = read_examples(Path(folder) / "words", "train", validation_share=0.0)[0]
        examples = examples[: 4 * steps]
        bpe = tokenizer.train_bpe(list(training_texts(examples, config)), min(config.llm.vocab_size, 4096))
        store: Any = Golds(examples)  # what a step asks a FeatureStore for, in memory
        data = Data(examples, [], bpe, store, WIDTHS, {})
        context = TrainingContext(Path(folder), config, mesh, data, Clock())
        graphdef, abstract = abstract_model(config, WIDTHS, mesh)
        state = initialise(config, WIDTHS, abstract)
        stage = resolve_stages(config)[2]
        prepared = {
            name: compile_stage(context, dataclasses.replace(stage, cached=name == "cached"), graphdef, abstract)
            for name in ("cached", "computed")
        }
        assert prepared["cached"].compute_states is not None
        with context.clock("fill"):
            prepared["cached"].rows.states = cache_states(
                context, [prepared["cached"].rows], prepared["cached"].compute_states, state, base=Base()
            )
        programs, losses = {}, {}

        def on_device(rows, first, count):
            size = rows.config.data.rows
            return [global_batch(local, mesh, size) for local in training_batches(rows, first, count, threads=1)]

        def make_program(name, stage_program, batches):
            trainable, frozen = stage_program.split(state)
            vector = jax.jit(stage_program.flat.ravel)(trainable)
            initial = jax.jit(lambda x: (x + 0, stage_program.init(x)))

            def run_steps():
                with jax.set_mesh(mesh):
                    parameters, opt_state = initial(vector)
                    for batch in batches():
                        parameters, opt_state, values = stage_program.step(
                            parameters, opt_state, frozen, batch, jax.random.key(0)
                        )
                    losses[name] = float(values["loss"])

            return run_steps

        with jax.set_mesh(mesh):
            rows = {name: stage_program.rows for name, stage_program in prepared.items()}
            steps = min(steps, prepared["cached"].steps)
            placed = {name: on_device(stage_rows, 0, steps) for name, stage_rows in rows.items()}
        programs["computed"] = make_program("computed", prepared["computed"], lambda: placed["computed"])
        programs["alone"] = make_program("alone", prepared["cached"], lambda: placed["cached"])

        def read_batches():
            size = rows["cached"].config.data.rows
            for local in training_batches(rows["cached"], 0, steps, threads=1):
                yield global_batch(local, mesh, size)

        programs["cached"] = make_program("cached", prepared["cached"], read_batches)
        seconds = measure.time_in_turn(programs, repetitions)
        tokens = float(np.mean([len(encoded.ids) for encoded in rows["computed"].encoded]))
        num_examples = sum(int((batch.example_id >= 0).sum()) for batch in placed["cached"])
        response_length = float(np.mean([e.response_span[1] - e.response_span[0] for e in rows["computed"].encoded]))
        llm, synchronizer = flops_per_example(config, tokens, WIDTHS, (response_length, PHONEMES, FRAMES))
        published = dataclasses.replace(WIDTHS, content_speech=1280, content_video=512)
        llm_7b, synchronizer_7b = flops_per_example(
            load_config(str(PUBLISHED)), tokens, published, (response_length, 85, 142)
        )
        results = [
            measure.rate_row(
                "cached_to_computed",
                num_examples,
                "Examples/s",
                {"ours": seconds["cached"], "peer": seconds["computed"]},
                llm_to_synchronizer=round(llm / synchronizer, 1),
                losses={k: round(v, 5) for k, v in losses.items()},
                fill_s=round(context.clock.shares["fill"], 2),
                examples=len(examples),
                steps=steps,
            ),
            measure.rate_row(
                "cached_to_alone", num_examples, "Examples/s", {"ours": seconds["cached"], "peer": seconds["alone"]}
            ),
            {
                "name": "7b_by_flops",
                "value": round(1 + llm_7b / synchronizer_7b, 1),
                "unit": "times fewer FLOPs a step",
                "device": "none",
                "versions": {},
                "synchronizer_tflop_an_example": round(synchronizer_7b / 1e12, 3),
                "llm_tflop_an_example": round(llm_7b / 1e12, 3),
            },
        ]
    measure.report(results, args)


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    main(ARGS)
