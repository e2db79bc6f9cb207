"""How many tokens a second are written, beside transformers' generate?

python benchmarks/decode.py --peer torch [--shape tiny|1b|7b] [--smoke] [--record]

Greedy, from the same weights and prompts, with a KV cache on both sides; no end token, so both write the same number of
tokens. Rows: batch_1, batch_4 (prompts of four lengths, padded as each side wants it). A ratio is void ("void": true)
when less than `AGREE` of the tokens are the same.
"""

import measure

if __name__ == "__main__":
    ARGS = measure.parser(__doc__).parse_args()
    measure.on_one_core(ARGS.core)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS  # noqa: E402

from empatheia_jax.llm.decode import generate  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402

PROMPT, NEW = 128, 128
AGREE = {"float32": 0.99, "bfloat16": 0.5}  # share of equal tokens; a flipped near-tie changes all that follow


class Ours:
    """`llm.decode.generate`, compiled once a batch size."""

    def __init__(self, config, new: int):
        self.graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
        self.state = jax.jit(lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])()
        self.llm = nnx.merge(self.graphdef, self.state)

        def write(state, tokens, lengths):
            llm = nnx.merge(self.graphdef, state)
            return generate(
                llm, llm.embed, llm.embed(tokens), lengths, max_new_tokens=new, eos_id=-1, reserve=0
            ).tokens

        self.write = jax.jit(write)

    def program(self, prompts: list[np.ndarray], written: list):
        lengths = np.array([len(p) for p in prompts], np.int32)
        tokens = np.zeros((len(prompts), lengths.max()), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
        return lambda: written.append(np.asarray(self.write(self.state, tokens, lengths)))


class Peer:
    """LlamaForCausalLM.generate with its default cache; prompts padded on the left."""

    def __init__(self, ours: Ours, new: int):
        import peer

        self.peer, self.torch, self.new = peer, peer.torch, new
        self.model = peer.transformers_llama(ours.llm).eval()

    def program(self, prompts: list[np.ndarray], written: list):
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        tokens, mask = (self.torch.from_numpy(array).to(self.peer.DEVICE) for array in (tokens, mask))

        def run():
            with self.torch.inference_mode():
                out = self.model.generate(
                    tokens, attention_mask=mask, do_sample=False, min_new_tokens=self.new, max_new_tokens=self.new,
                    pad_token_id=0,
                )  # fmt: skip
            written.append(out[:, longest:].cpu().numpy())

        return run


def main(args) -> None:
    prompt, new, repetitions = (16, 8, 1) if args.smoke else (PROMPT, NEW, measure.REPETITIONS)
    config = LLMS[args.shape]
    ours = Ours(config, new)
    peer = Peer(ours, new) if args.peer else None
    copy = measure.copy_rate(0.1 if args.shape == "tiny" else 2.0)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(ours.state))
    rng, rows = np.random.default_rng(0), []
    for batch in (1, 4):
        prompts = [rng.integers(0, config.vocab_size, prompt - row * prompt // 8) for row in range(batch)]
        written: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
        programs = {"ours": ours.program(prompts, written["ours"])}
        facts = {"shape": args.shape, "dtype": config.compute_dtype, "prompt": prompt, "new_tokens": new}
        if peer:
            programs["peer"] = peer.program(prompts, written["peer"])
        seconds = measure.in_turn(programs, repetitions)
        if peer:
            equal = float(np.mean(written["ours"][-1] == written["peer"][-1]))
            facts |= {"equal_tokens": round(equal, 3), "void": equal < AGREE[config.compute_dtype]}
        result = measure.row(f"batch_{batch}", batch * new, "tokens/s", seconds, **facts)
        # Every step reads all weights once: what the memory must carry, whatever the arithmetic.
        gigabytes = parameters * result["value"] / batch / 1e9
        result |= {"weights_read_GB_per_s": round(gigabytes, 1)} | measure.memory_bound(1e9 * gigabytes, 1.0, copy)
        rows.append(result | measure.device_peak())
    measure.report(rows, args)


if __name__ == "__main__":
    main(ARGS)
