"""How many tokens a second are written, beside transformers' generate?

python benchmarks/decode.py --peer torch [--shape tiny|1b|7b] [--smoke] [--record]

Greedy, from the same weights and prompts, with a KV cache on both sides; no end token, so both write the same number of
tokens. A ratio is void ("void": true) when less than `AGREE` of the tokens are the same. Rows:
  batch_1, batch_4  prompts of one to four lengths, padded as each side wants it
  test_set          prompts of a corpus, each with as many new tokens as its gold answer has: our slots that are filled
                    again as answers end (`llm/batching.py`), beside static batches of as many rows, sorted by length of
                    the prompt, of our own `generate` ("static_...") and of the peer's. Only wanted tokens count
  next_turn         the turns of one dialogue, each to its first token: what the cache holds of the turn before is not
                    read again; beside prompts read from their first token, ours ("whole_...") and the peer's
"""

import functools
import statistics
import tempfile
from pathlib import Path

import measure

if __name__ == "__main__":
    ARGS = measure.parser(__doc__).parse_args()
    measure.on_one_core(ARGS.core)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS, bench_config, write_words  # noqa: E402

from empatheia_jax.buckets import bucket  # noqa: E402
from empatheia_jax.data.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.encoded import encode  # noqa: E402
from empatheia_jax.data.tokenizer import train_bpe  # noqa: E402
from empatheia_jax.inference.conversation import common_prefix  # noqa: E402
from empatheia_jax.llm.batching import (  # noqa: E402
    Continuous,
    admit,
    advance,
    empty_slots,
    share_prefix,
    shared_length,
)
from empatheia_jax.llm.decode import generate  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402
from empatheia_jax.training.run_data import training_texts  # noqa: E402

PROMPT, NEW = 128, 128
SLOTS, ASKED = 16, 96  # rows of cache, and prompts, of test_set
AGREE = {"float32": 0.99, "bfloat16": 0.5}  # share of equal tokens; a flipped near-tie changes all that follow


class Ours:
    """`llm.decode.generate`, compiled once a batch size."""

    def __init__(self, config, new: int):
        self.graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
        self.state = jax.jit(lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])()
        self.llm = nnx.merge(self.graphdef, self.state)

        def write(state, tokens, lengths):
            llm = nnx.merge(self.graphdef, state)
            return generate(llm, llm.embed, llm.embed(tokens), lengths, max_new_tokens=new, eos_id=-1, reserve=0).tokens

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

    def program(self, prompts: list[np.ndarray], written: list, new: int | None = None):
        new = new or self.new
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        tokens, mask = (self.torch.from_numpy(array).to(self.peer.DEVICE) for array in (tokens, mask))

        def run():
            with self.torch.inference_mode():
                out = self.model.generate(
                    tokens,
                    attention_mask=mask,
                    do_sample=False,
                    min_new_tokens=new,
                    max_new_tokens=new,
                    pad_token_id=0,
                )
            written.append(out[:, longest:].cpu().numpy())

        return run


class Refilled:
    """`llm.batching` on a Llama: slots, and what fills and advances them."""

    def __init__(self, ours: Ours):
        self.state, self.graphdef, self.config = ours.state, ours.graphdef, ours.llm.config
        self.admit = jax.jit(self._admit, static_argnames="window", donate_argnums=1)
        self.advance = functools.partial(jax.jit(self._advance, donate_argnums=1), self.state)
        self.share = jax.jit(self._share, donate_argnums=1)

    def _admit(self, state, slots, rows, tokens, start, lengths, budgets, window):
        llm = nnx.merge(self.graphdef, state)
        return admit(llm, slots, rows, llm.embed(tokens), start, lengths, budgets, eos_id=-1, window=window)

    def _advance(self, state, slots, least, steps):
        llm = nnx.merge(self.graphdef, state)
        return advance(llm, llm.embed, slots, least, steps, eos_id=-1)

    def _share(self, state, slots, tokens):
        llm = nnx.merge(self.graphdef, state)
        return share_prefix(llm, slots, llm.embed(tokens))

    def put(self, slots, rows, prompts, budgets, start: int, window: int | None = None):
        """Prefill `prompts`, whose first `start` tokens the slots hold."""
        size = bucket(max(map(len, prompts)) - start, 64, 2)
        tokens, lengths, budget = np.zeros((len(rows), size), np.int32), *np.ones((2, len(rows)), np.int32)
        for row, (prompt, most) in enumerate(zip(prompts, budgets, strict=True)):
            lengths[row], budget[row] = len(prompt) - start, most
            tokens[row, : lengths[row]] = prompt[start:]
        starts = np.full(len(rows), start, np.int32)
        return self.admit(self.state, slots, rows, tokens, starts, lengths, budget, window=window or start + size)

    def test_set(self, prompts: list[np.ndarray], budgets: list[int], rows: int, written: list, tallies: list):
        """Write `budgets` tokens after `prompts`, `rows` at a time."""
        common = shared_length([prompt.tolist() for prompt in prompts])
        longest = common + bucket(max(map(len, prompts)) - common, 64, 2)
        together = 1 if jax.default_backend() == "cpu" else max(1, rows // 8)

        def put(slots, rows, numbers):
            return self.put(slots, rows, [prompts[n] for n in numbers], [budgets[n] for n in numbers], common)

        def run():
            slots = empty_slots(self.config, rows, longest + max(budgets), max(budgets))
            if common:
                slots = self.share(self.state, slots, prompts[0][None, :common])
            drive = Continuous(slots, put, self.advance, lambda *asked: lambda: asked[-1], together=together)
            found = dict(drive.run(len(prompts)))
            written.append([found[n] for n in range(len(prompts))])
            tallies.append(drive.tally)

        return run

    def turns(self, prompts: list[np.ndarray], reuse: bool, written: list, reused: list):
        """The first token of each turn's answer, on one row of cache."""
        capacity = bucket(max(map(len, prompts)), 256, 1)

        def run():
            slots, held, firsts = empty_slots(self.config, 1, capacity, 1), [], []
            for prompt in prompts:
                start = common_prefix(held, {}, prompt, {}, 1) if reuse else 0
                slots, held = self.put(slots, np.zeros(1, np.int32), [prompt], [1], start, capacity), prompt
                firsts.append([int(slots.token[0])])
                reused.append(start / len(prompt))
            written.append(firsts)

        return run


def static_batches(prompts: list, budgets: list[int], rows: int) -> list[list[int]]:
    """Numbers of the prompts, `rows` at a time, sorted by length of the prompt."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    return [order[first : first + rows] for first in range(0, len(order), rows)]


def our_static(ours: Ours, prompts: list[np.ndarray], budgets: list[int], rows: int, written: list):
    """`generate`, batch by batch; a batch ends with its longest answer."""
    most = max(budgets)

    @jax.jit
    def write(state, tokens, lengths, limits):
        llm = nnx.merge(ours.graphdef, state)
        return generate(
            llm, llm.embed, llm.embed(tokens), lengths, max_new_tokens=most, eos_id=-1, limits=limits, reserve=0
        ).tokens

    def run():
        found = [None] * len(prompts)
        for numbers in static_batches(prompts, budgets, rows):
            size = bucket(max(len(prompts[n]) for n in numbers), 64, 2)
            tokens, lengths, limits = np.zeros((rows, size), np.int32), *np.ones((2, rows), np.int32)
            for row, n in enumerate(numbers):
                tokens[row, : len(prompts[n])], lengths[row], limits[row] = prompts[n], len(prompts[n]), budgets[n]
            answers = np.asarray(write(ours.state, tokens, lengths, limits))
            for row, n in enumerate(numbers):
                found[n] = answers[row, : budgets[n]].tolist()
        written.append(found)

    return run


def peer_static(peer: Peer, prompts: list[np.ndarray], budgets: list[int], rows: int, written: list):
    """The peer's generate, batch by batch, each to its longest answer."""

    def run():
        found = [None] * len(prompts)
        for numbers in static_batches(prompts, budgets, rows):
            answers: list[np.ndarray] = []
            peer.program([prompts[n] for n in numbers], answers, max(budgets[n] for n in numbers))()
            for row, n in enumerate(numbers):
                found[n] = answers[0][row, : budgets[n]].tolist()
        written.append(found)

    return run


def asked(shape: str, smoke: bool) -> tuple[list[np.ndarray], list[int], list[np.ndarray]]:
    """Prompts of a corpus, the tokens of their gold answers, and the prompts of one dialogue's turns."""
    with tempfile.TemporaryDirectory() as folder:
        write_words(Path(folder))
        config = bench_config(shape, Path(folder))
        examples = read_examples(Path(folder), "train", validation_share=0.0)[0]
    words = train_bpe(list(training_texts(examples, config)), min(config.llm.vocab_size, 4096))
    encoded = [encode(e, "text", config, words, e.listener_profile) for e in examples]
    prompts = [e.ids[: e.prompt_length] for e in encoded]
    budgets = [len(e.ids) - e.prompt_length - 1 for e in encoded]  # </s> is not written
    longest = max(examples, key=lambda e: e.turn_id).conversation_id
    turns = [n for n, e in enumerate(examples) if e.conversation_id == longest]
    order = np.random.default_rng(0).permutation(len(examples))[: 6 if smoke else ASKED]
    if smoke:
        budgets = [1 + budget % 8 for budget in budgets]
    return [prompts[n] for n in order], [budgets[n] for n in order], [prompts[n] for n in turns]


def equal(written: dict[str, list], dtype: str) -> dict:
    """How many tokens both sides have in common, over the last run."""
    ours, theirs = (np.concatenate(written[name][-1]) for name in ("ours", "peer"))
    share = float(np.mean(ours == theirs))
    return {"equal_tokens": round(share, 3), "void": share < AGREE[dtype]}


def beside(name: str, work: float, seconds: dict[str, list[float]]) -> dict:
    """Value of another program of ours, and our ratio to it."""
    ratios = [other / own for own, other in zip(seconds["ours"], seconds[name], strict=True)]
    value = work / statistics.median(seconds[name])
    return {f"{name}_value": float(f"{value:.4g}"), f"ratio_to_{name}": round(statistics.median(ratios), 3)}


def measure_test_set(args, ours: Ours, peer: Peer | None, prompts, budgets, repetitions: int) -> dict:
    rows = 2 if args.smoke else SLOTS
    written, tallies = {"ours": [], "static": [], "peer": []}, []
    programs = {
        "ours": Refilled(ours).test_set(prompts, budgets, rows, written["ours"], tallies),
        "static": our_static(ours, prompts, budgets, rows, written["static"]),
    }
    if peer:
        programs["peer"] = peer_static(peer, prompts, budgets, rows, written["peer"])
    seconds = measure.in_turn(programs, repetitions)
    dtype, work = ours.llm.config.compute_dtype, sum(budgets)
    same = np.mean(np.concatenate(written["ours"][-1]) == np.concatenate(written["static"][-1]))
    steps = sum(rows * max(budgets[n] for n in numbers) for numbers in static_batches(prompts, budgets, rows))
    facts = {
        "shape": args.shape,
        "dtype": dtype,
        "prompts": len(prompts),
        "slots": rows,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": work,
        "occupancy": round(tallies[-1].occupancy, 3),
        "static_occupancy": round(work / steps, 3),
        **beside("static", work, seconds),
        "static_equal_tokens": round(float(same), 3),
        **(equal(written, dtype) if peer else {}),
    }
    return measure.row("test_set", work, "tokens/s", seconds, **facts)


def measure_turns(args, ours: Ours, peer: Peer | None, prompts, repetitions: int) -> dict:
    refilled, written, reused = Refilled(ours), {"ours": [], "whole": [], "peer": []}, []
    programs = {
        "ours": refilled.turns(prompts, True, written["ours"], reused),
        "whole": refilled.turns(prompts, False, written["whole"], []),
    }
    if peer:
        programs["peer"] = lambda: written["peer"].append(peer_turns(peer, prompts))
    seconds = measure.in_turn(programs, repetitions)
    dtype, work = ours.llm.config.compute_dtype, len(prompts)
    facts = {
        "shape": args.shape,
        "dtype": dtype,
        "turns": work,
        "prompt_tokens": sum(map(len, prompts)),
        "reused": round(float(np.mean(reused)), 3),
        **beside("whole", work, seconds),
        "whole_equal_tokens": round(float(np.mean(np.array(written["ours"][-1]) == written["whole"][-1])), 3),
        **(equal(written, dtype) if peer else {}),
    }
    return measure.row("next_turn", work, "first tokens/s", seconds, **facts)


def peer_turns(peer: Peer, prompts: list[np.ndarray]) -> list[list[int]]:
    """The first token of each turn's answer, every prompt read from its first token."""
    answers: list[np.ndarray] = []
    for prompt in prompts:
        peer.program([prompt], answers, 1)()
    return [answer[0].tolist() for answer in answers]


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
    prompts, budgets, turns = asked(args.shape, args.smoke)
    rows.append(measure_test_set(args, ours, peer, prompts, budgets, repetitions))
    rows.append(measure_turns(args, ours, peer, turns, repetitions))
    measure.report(rows, args)


if __name__ == "__main__":
    main(ARGS)
