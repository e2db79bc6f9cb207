"""What do int8 and nf4 bases cost and save, in training and in decoding?

python benchmarks/quantized.py [--shape tiny|1b|7b] [--smoke] [--record]

A LoRA step (one row of full length) and greedy decoding at batch 1, from the same random weights held plain (in the
shape's own format), in int8 and in nf4, one after the other in this run. Rows: train_plain, decode_plain, and so on.
`bytes` are the base's at rest, `temporary_bytes` the compiler's own count of what the program needs beside its
arguments. `loss_difference`, `logit_error` (as a part of the scale) and `equal_tokens` are against the plain base:
random weights show the arithmetic; what quantisation does to the answers of a trained model is for `empatheia evaluate
--quantization` to say.
"""

import measure

if __name__ == "__main__":
    PARSER = measure.parser(__doc__)
    ARGS = PARSER.parse_args()
    if ARGS.peer:
        PARSER.error("--peer: this one compares our own bases; decode.py and train_step.py have peers")
    measure.on_one_core(ARGS.core)

import dataclasses  # noqa: E402

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS  # noqa: E402

from empatheia_jax.config import LlamaConfig, LoraConfig  # noqa: E402
from empatheia_jax.llm.decode import generate  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402
from empatheia_jax.llm.quantized import quantized  # noqa: E402
from empatheia_jax.states import named  # noqa: E402

TILES = {"tiny": 32}  # of nf4; others: the default
PROMPT, NEW = 128, 128
LORA = LoraConfig(rank=16, alpha=32.0, dropout=0.0)


class Held:
    """One LLM whose base is held in one way, its step and its decoding."""

    def __init__(self, config: LlamaConfig, new: int):
        self.graphdef, abstract = nnx.split(nnx.eval_shape(lambda: Llama(config, LORA, rngs=nnx.Rngs(0))))
        plain = dataclasses.replace(config, quantization="none")
        drawn = jax.jit(lambda: nnx.split(Llama(plain, LORA, rngs=nnx.Rngs(0)))[1])()
        arrays = named(drawn)
        del drawn  # a projection at a time takes the plain one's place
        for name in arrays:
            if name.endswith("lora_b"):  # zeros would hide what passes the adapters
                noise = jax.random.normal(jax.random.key(len(name)), arrays[name].shape)
                arrays[name] = 0.02 * noise
        self.state, self.new = quantized(arrays, abstract), new
        _, self.adapters, self.base = nnx.split(nnx.merge(self.graphdef, self.state), nnx.LoRAParam, ...)
        self.bytes = sum(leaf.nbytes for leaf in jax.tree.leaves(self.base))

    def step(self, tokens: np.ndarray):
        """(compiled: adapters, base, tokens -> loss and adapters after a step of gradient descent, its bytes)."""

        def loss_of(adapters, base, tokens):
            llm = nnx.merge(self.graphdef, adapters, base)
            positions = jnp.broadcast_to(jnp.arange(tokens.shape[1]), tokens.shape)
            hidden, _ = llm(llm.embed(tokens), positions)
            scores = jax.nn.log_softmax(llm.logits(hidden[:, :-1]))
            return -jnp.mean(jnp.take_along_axis(scores, tokens[:, 1:, None], axis=-1))

        def step(adapters, base, tokens):
            loss, gradient = jax.value_and_grad(loss_of)(adapters, base, tokens)
            return loss, jax.tree.map(lambda p, g: p - 1e-3 * g, adapters, gradient)

        compiled = jax.jit(step).lower(self.adapters, self.base, tokens).compile()
        return compiled, compiled.memory_analysis().temp_size_in_bytes

    def write(self, prompt: np.ndarray):
        """(compiled: state, prompt -> tokens and the logits after the prompt, its bytes)."""

        def write(state, tokens):
            llm = nnx.merge(self.graphdef, state)
            lengths = jnp.array([tokens.shape[1]], jnp.int32)
            embeddings = llm.embed(tokens)
            done = generate(llm, llm.embed, embeddings, lengths, max_new_tokens=self.new, eos_id=-1, reserve=0)
            hidden, _ = llm(embeddings, jnp.arange(tokens.shape[1])[None])
            return done.tokens, llm.logits(hidden)

        compiled = jax.jit(write).lower(self.state, prompt).compile()
        return compiled, compiled.memory_analysis().temp_size_in_bytes


def main(args) -> None:
    prompt, new, length, repetitions = (16, 8, 64, 1) if args.smoke else (PROMPT, NEW, 512, measure.REPETITIONS)
    config, rng = LLMS[args.shape], np.random.default_rng(0)
    row = rng.integers(0, config.vocab_size, (1, length)).astype(np.int32)
    asked = rng.integers(0, config.vocab_size, (1, prompt)).astype(np.int32)
    rows, plain = [], {}
    for kind in ("none", "int8", "nf4"):
        tile = TILES.get(args.shape, config.quantization_tile)
        held = Held(dataclasses.replace(config, quantization=kind, quantization_tile=tile), new)
        (step, step_bytes), (write, write_bytes) = held.step(row), held.write(asked)
        found: dict[str, object] = {}

        def train(held=held, step=step, found=found):
            found["loss"] = float(jax.block_until_ready(step(held.adapters, held.base, row))[0])

        def decode(held=held, write=write, found=found):
            found["tokens"], found["logits"] = map(np.asarray, write(held.state, asked))

        seconds = measure.in_turn({"train": train, "decode": decode}, repetitions)
        plain = plain or found
        name = {"none": "plain"}.get(kind, kind)
        facts = {"shape": args.shape, "dtype": config.compute_dtype, "bytes": held.bytes}
        trained = {"loss": round(found["loss"], 5), "loss_difference": round(found["loss"] - plain["loss"], 5)}
        scale = np.abs(plain["logits"]).max()
        wrote = {
            "logit_error": round(float(np.abs(found["logits"] - plain["logits"]).max() / scale), 5),
            "equal_tokens": round(float(np.mean(found["tokens"] == plain["tokens"])), 3),
        }
        programs = ("train", length, trained, step_bytes), ("decode", new, wrote, write_bytes)
        for what, work, extra, temporary in programs:
            ours = {"ours": seconds[what]}
            facts_here = facts | {"temporary_bytes": temporary} | extra
            rows.append(measure.row(f"{what}_{name}", work, "tokens/s", ours, **facts_here))
        del held, step, write, train, decode  # the next one has the memory
    measure.report(rows, args)


if __name__ == "__main__":
    main(ARGS)
