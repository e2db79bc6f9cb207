"""Measure what int8 and nf4 bases cost and save, in training and in decoding.

python benchmarks/quantized.py [--shape tiny|1b|7b] [--smoke] [--record]

A LoRA step (one full batch row) and greedy decoding at batch 1, from the same random weights stored plain (in the
shape's own dtype), in int8 and in nf4, one after the other in this run. Rows: train_plain, decode_plain, and so on.
`bytes` are the stored base's, `temporary_bytes` the compiler's count of what the program needs beside its arguments.
`loss_difference`, `logit_error` (relative to the largest logit) and `equal_tokens` compare with the plain base. Random
weights show the arithmetic; `empatheia evaluate --quantization` measures what quantisation does to a trained model.
"""

import measure

if __name__ == "__main__":
    PARSER = measure.build_parser(__doc__)
    ARGS = PARSER.parse_args()
    if ARGS.peer:
        PARSER.error("--peer: this benchmark compares our own bases; decode.py and train_step.py have peers")
    measure.stay_on_one_core(ARGS.core)

import dataclasses  # noqa: E402
from typing import Any  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS  # noqa: E402

from empatheia_jax.checkpoints.named_arrays import named_arrays  # noqa: E402
from empatheia_jax.config import LlamaConfig, LoraConfig  # noqa: E402
from empatheia_jax.llm.decode import generate  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402
from empatheia_jax.llm.quantized import quantize_arrays  # noqa: E402

TILES = {"tiny": 32}  # of nf4; other shapes have the default
PROMPT_LENGTH, NEW_TOKENS = 128, 128
LORA = LoraConfig(rank=16, alpha=32.0, dropout=0.0)


class QuantizedLlama:
    """One LLM whose base is stored in one format, with its training step and its decoding."""

    def __init__(self, config: LlamaConfig, max_new_tokens: int):
        self.graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Llama(config, LORA, rngs=nnx.Rngs(0))))
        plain = dataclasses.replace(config, quantization="none")
        initial = jax.jit(lambda: nnx.split(Llama(plain, LORA, rngs=nnx.Rngs(0)))[1])()
        arrays = named_arrays(initial)
        del initial  # so that each quantised projection can free the plain one
        for name in arrays:
            if name.endswith("lora_b"):  # zeros would hide an error in the adapters
                arrays[name] = 0.02 * jax.random.normal(jax.random.key(len(name)), arrays[name].shape)
        self.state, self.max_new_tokens = quantize_arrays(arrays, abstract), max_new_tokens
        _, self.adapters, self.base = nnx.split(nnx.merge(self.graphdef, self.state), nnx.LoRAParam, ...)
        self.bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.base))

    def compile_step(self, tokens: np.ndarray) -> jax.stages.Compiled:
        """Compile a step of gradient descent: adapters, base, tokens -> loss, adapters."""

        def mean_loss(adapters, base, tokens):
            llm = nnx.merge(self.graphdef, adapters, base)
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            hidden, _ = llm(llm.embed(tokens), positions)
            log_probs = jax.nn.log_softmax(llm.logits(hidden[:, :-1]))
            return -jnp.mean(jnp.take_along_axis(log_probs, tokens[:, 1:, None], axis=-1))

        def step(adapters, base, tokens):
            loss, gradient = jax.value_and_grad(mean_loss)(adapters, base, tokens)
            return loss, jax.tree.map(lambda p, g: p - 1e-3 * g, adapters, gradient)

        return jax.jit(step).lower(self.adapters, self.base, tokens).compile()

    def compile_decode(self, prompt: np.ndarray) -> jax.stages.Compiled:
        """Compile decoding: state, prompt -> new tokens, the prompt's logits."""

        def decode(state, tokens):
            llm = nnx.merge(self.graphdef, state)
            lengths = jnp.array([tokens.shape[1]], jnp.int32)
            embeddings = llm.embed(tokens)
            generated = generate(
                llm, llm.embed, embeddings, lengths, max_new_tokens=self.max_new_tokens, eos_id=-1, reserve=0
            )
            hidden, _ = llm(embeddings, jnp.arange(tokens.shape[1])[None])
            return generated.tokens, llm.logits(hidden)

        return jax.jit(decode).lower(self.state, prompt).compile()


def main(args) -> None:
    prompt_length, max_new_tokens, row_length, repetitions = (
        (16, 8, 64, 1) if args.smoke else (PROMPT_LENGTH, NEW_TOKENS, 512, measure.REPETITIONS)
    )
    config, rng = LLMS[args.shape], np.random.default_rng(0)
    row = rng.integers(0, config.vocab_size, (1, row_length)).astype(np.int32)
    prompt = rng.integers(0, config.vocab_size, (1, prompt_length)).astype(np.int32)
    rows, plain = [], {}
    for kind in ("none", "int8", "nf4"):
        tile = TILES.get(args.shape, config.quantization_tile)
        llm = QuantizedLlama(dataclasses.replace(config, quantization=kind, quantization_tile=tile), max_new_tokens)
        step, generate_tokens = llm.compile_step(row), llm.compile_decode(prompt)
        outputs: dict[str, Any] = {}

        def train(llm=llm, step=step, outputs=outputs):
            outputs["loss"] = float(jax.block_until_ready(step(llm.adapters, llm.base, row))[0])

        def decode(llm=llm, generate_tokens=generate_tokens, outputs=outputs):
            outputs["tokens"], outputs["logits"] = map(np.asarray, generate_tokens(llm.state, prompt))

        seconds = measure.time_in_turn({"train": train, "decode": decode}, repetitions)
        plain = plain or outputs
        name = {"none": "plain"}.get(kind, kind)
        facts = {"shape": args.shape, "dtype": config.compute_dtype, "bytes": llm.bytes}
        trained = {"loss": round(outputs["loss"], 5), "loss_difference": round(outputs["loss"] - plain["loss"], 5)}
        scale = np.abs(plain["logits"]).max()
        decoded = {
            "logit_error": round(float(np.abs(outputs["logits"] - plain["logits"]).max() / scale), 5),
            "equal_tokens": round(float(np.mean(outputs["tokens"] == plain["tokens"])), 3),
        }
        programs = ("train", row_length, trained, step), ("decode", max_new_tokens, decoded, generate_tokens)
        for program, work, results, compiled in programs:
            memory = compiled.memory_analysis()
            row_facts = facts | {"temporary_bytes": memory and memory.temp_size_in_bytes} | results
            rows.append(
                measure.rate_row(f"{program}_{name}", work, "tokens/s", {"ours": seconds[program]}, **row_facts)
            )
        del llm, step, generate_tokens, train, decode, programs, compiled  # free their memory for the next base
    measure.report(rows, args)


if __name__ == "__main__":
    main(ARGS)
