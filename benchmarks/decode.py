"""Measure decoding in tokens a second, beside transformers' generate.

python benchmarks/decode.py --peer torch [--shape tiny|1b|7b] [--smoke] [--record]

Greedy, from the same weights and prompts, with a KV cache on both sides and no end token, so that both generate the
same number of tokens. A ratio is void ("void": true) when fewer than `AGREEMENT` of the tokens are equal. Rows:
  batch_1, batch_4  prompts of one to four lengths, padded as each side needs
  test_set          prompts of a corpus, each with as many new tokens as its gold answer has: our batch, in which ended
                    sequences are replaced (`llm/batching.py`), beside static batches of the same size, sorted by length
                    of the prompt, of our own `generate` ("static_...") and of the peer's. Only requested tokens count
  next_turn         the turns of one dialogue, each to its first token: the prefix shared with the turn before is kept
                    in the cache; beside full prefills, ours ("whole_...") and the peer's
"""

import dataclasses
import statistics
import tempfile
from pathlib import Path
from typing import Any

import measure

if __name__ == "__main__":
    ARGS = measure.build_parser(__doc__).parse_args()
    measure.stay_on_one_core(ARGS.core)

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import LLMS, bench_config, write_text_corpus  # noqa: E402

from empatheia_jax.config import Config  # noqa: E402
from empatheia_jax.data.batches.encoder import encode_example  # noqa: E402
from empatheia_jax.data.corpus.avamerg import read_examples  # noqa: E402
from empatheia_jax.data.prompts.tokenizer import Tokenizer, train_bpe  # noqa: E402
from empatheia_jax.inference.conversation import FIRST, common_prefix_length  # noqa: E402
from empatheia_jax.inference.engine import GROUPS, Engine  # noqa: E402
from empatheia_jax.inference.prompt import BUCKETS, PROMPT_BUCKET, Prompt  # noqa: E402
from empatheia_jax.llm.batching import ContinuousBatcher, DecodeState, shared_prefix_length  # noqa: E402
from empatheia_jax.llm.decode import generate  # noqa: E402
from empatheia_jax.llm.llama import Llama  # noqa: E402
from empatheia_jax.llm.new_tokens import NewTokens  # noqa: E402
from empatheia_jax.model.empatheia import Empatheia  # noqa: E402
from empatheia_jax.runtime.buckets import bucket  # noqa: E402
from empatheia_jax.training.data import training_texts  # noqa: E402

PROMPT_LENGTH, NEW_TOKENS = 128, 128
BATCH_SIZE, PROMPTS = 16, 96  # sequences decoded at once, and prompts, of test_set
AGREEMENT = {"float32": 0.99, "bfloat16": 0.5}  # share of equal tokens; a flipped near-tie changes all later ones


class Decoder:
    """`llm.decode.generate`, compiled once a batch size."""

    def __init__(self, config, max_new_tokens: int):
        self.graphdef = nnx.graphdef(nnx.eval_shape(lambda: Llama(config, rngs=nnx.Rngs(0))))
        self.state = jax.jit(lambda: nnx.split(Llama(config, rngs=nnx.Rngs(0)))[1])()
        self.llm = nnx.merge(self.graphdef, self.state)

        def generate_tokens(state, tokens, lengths):
            llm = nnx.merge(self.graphdef, state)
            return generate(
                llm, llm.embed, llm.embed(tokens), lengths, max_new_tokens=max_new_tokens, eos_id=-1, reserve=0
            ).tokens

        self.generate = jax.jit(generate_tokens)

    def program(self, prompts: list[np.ndarray], outputs: list):
        """Return a function that decodes `prompts` and appends the tokens [B, T] to `outputs`."""
        lengths = np.array([len(p) for p in prompts], np.int32)
        tokens = np.zeros((len(prompts), lengths.max()), np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
        tokens, lengths = jnp.asarray(tokens), jnp.asarray(lengths)
        return lambda: outputs.append(np.asarray(self.generate(self.state, tokens, lengths)))


class Peer:
    """LlamaForCausalLM.generate with its default cache; prompts padded on the left."""

    def __init__(self, decoder: Decoder, max_new_tokens: int):
        import peer

        self.peer, self.torch, self.max_new_tokens = peer, peer.torch, max_new_tokens
        self.model: Any = peer.transformers_llama(decoder.llm).eval()

    def program(self, prompts: list[np.ndarray], outputs: list, max_new_tokens: int | None = None):
        """Return a function that decodes `prompts` and appends the tokens [B, T] to `outputs`."""
        max_new_tokens = max_new_tokens or self.max_new_tokens
        longest = max(map(len, prompts))
        tokens = np.zeros((len(prompts), longest), np.int64)
        mask = np.zeros_like(tokens)
        for row, prompt in enumerate(prompts):
            tokens[row, longest - len(prompt) :], mask[row, longest - len(prompt) :] = prompt, 1
        tokens, mask = (self.torch.from_numpy(array).to(self.peer.DEVICE) for array in (tokens, mask))

        def run():
            with self.torch.inference_mode():
                sequences = self.model.generate(
                    tokens,
                    attention_mask=mask,
                    do_sample=False,
                    min_new_tokens=max_new_tokens,
                    max_new_tokens=max_new_tokens,
                    pad_token_id=0,
                )
            outputs.append(sequences[:, longest:].cpu().numpy())

        return run


@dataclasses.dataclass(frozen=True)
class Corpus:
    """Prompts of the sample corpus, and what encoded them."""

    config: Config
    tokenizer: Tokenizer
    prompts: list[np.ndarray]
    budgets: list[int]  # lengths of the prompts' gold answers
    turns: list[np.ndarray]  # prompts of one dialogue's turns

    def make_engine(self, decoder: Decoder, *, batch: int, max_new_tokens: int) -> Engine:
        """Return an engine on the decoder's LLM."""
        model = nnx.eval_shape(lambda: Empatheia(self.config, None, rngs=nnx.Rngs(0)))
        model.llm, model.new_tokens = decoder.llm, NewTokens(self.config.llm.width, rngs=nnx.Rngs(0))
        return Engine(model, self.tokenizer, self.config, batch=batch, max_new_tokens=max_new_tokens)


def make_prompt(ids: np.ndarray, max_new_tokens: int) -> Prompt:
    """Return a prompt of words only."""
    return Prompt(ids.tolist(), (), [], lambda key: None, max_new_tokens)


def engine_test_set(engine: Engine, prompts: list[Prompt], *, outputs: list, stats: list):
    """Return a function that decodes each prompt's `max_new_tokens`, `engine.batch` sequences at a time."""
    common = shared_prefix_length([prompt.ids for prompt in prompts])
    longest = common + bucket(max(len(prompt.ids) for prompt in prompts) - common, PROMPT_BUCKET, BUCKETS)
    group_size = 1 if jax.default_backend() == "cpu" else max(1, engine.batch // GROUPS)

    def admit(decode_state: DecodeState, sequences: np.ndarray, indices: list[int]) -> DecodeState:
        return engine.admit(decode_state, sequences, [prompts[n] for n in indices], start=common, max_slots=0)

    def run():
        decode_state = engine.empty_decode_state(engine.batch, longest + engine.max_new_tokens)
        if common:
            decode_state = engine.share(decode_state, prompts[0].ids[:common])
        batcher = ContinuousBatcher(
            decode_state, admit, engine.advance, lambda *args: lambda: args[-1], group_size=group_size
        )
        answers = dict(batcher.run(len(prompts)))
        outputs.append([answers[n] for n in range(len(prompts))])
        stats.append(batcher.stats)

    return run


def engine_turns(engine: Engine, prompts: list[Prompt], *, reuse: bool, outputs: list, reused: list):
    """Return a function that decodes the first token of each turn's answer, with a cache of one sequence."""
    capacity = bucket(max(len(prompt.ids) for prompt in prompts), 256, 1)

    def run():
        decode_state, first_tokens, cached = engine.empty_decode_state(1, capacity), [], []
        for prompt in prompts:
            start = common_prefix_length(cached, {}, prompt.ids, {}, slot_tokens=1) if reuse else 0
            decode_state = engine.admit(decode_state, FIRST, [prompt], start=start, max_slots=0, window=capacity)
            first_tokens.append([int(decode_state.next_token[0])])
            reused.append(start / len(prompt.ids))
            cached = prompt.ids
        outputs.append(first_tokens)

    return run


def static_batches(prompts: list, batch_size: int) -> list[list[int]]:
    """Return batches of indices into `prompts`, sorted by the prompt's length."""
    order = sorted(range(len(prompts)), key=lambda n: len(prompts[n]))
    return [order[first : first + batch_size] for first in range(0, len(order), batch_size)]


def flax_static(decoder: Decoder, prompts: list[np.ndarray], budgets: list[int], *, batch_size: int, outputs: list):
    """Return a function that runs `generate` batch by batch; a batch ends with its longest answer."""
    max_new_tokens = max(budgets)

    @jax.jit
    def generate_tokens(state, tokens, lengths, limits):
        llm = nnx.merge(decoder.graphdef, state)
        return generate(
            llm,
            llm.embed,
            llm.embed(tokens),
            lengths,
            max_new_tokens=max_new_tokens,
            eos_id=-1,
            limits=limits,
            reserve=0,
        ).tokens

    def run():
        answers = [None] * len(prompts)
        for numbers in static_batches(prompts, batch_size):
            size = bucket(max(len(prompts[n]) for n in numbers), 64, 2)
            tokens, lengths, limits = np.zeros((batch_size, size), np.int32), *np.ones((2, batch_size), np.int32)
            for row, n in enumerate(numbers):
                tokens[row, : len(prompts[n])], lengths[row], limits[row] = prompts[n], len(prompts[n]), budgets[n]
            generated = np.asarray(generate_tokens(decoder.state, tokens, lengths, limits))
            for row, n in enumerate(numbers):
                answers[n] = generated[row, : budgets[n]].tolist()
        outputs.append(answers)

    return run


def peer_static(peer: Peer, prompts: list[np.ndarray], budgets: list[int], *, batch_size: int, outputs: list):
    """Return a function that runs the peer's generate batch by batch, each to its longest answer."""

    def run():
        answers = [None] * len(prompts)
        for numbers in static_batches(prompts, batch_size):
            generated: list[np.ndarray] = []
            peer.program([prompts[n] for n in numbers], generated, max(budgets[n] for n in numbers))()
            for row, n in enumerate(numbers):
                answers[n] = generated[0][row, : budgets[n]].tolist()
        outputs.append(answers)

    return run


def load_corpus(shape: str, smoke: bool) -> Corpus:
    """Return prompts of the sample corpus, in an order of their own."""
    with tempfile.TemporaryDirectory() as folder:
        write_text_corpus(Path(folder))
        config = bench_config(shape, Path(folder))
        examples = read_examples(Path(folder), "train", validation_share=0.0)[0]
    tokenizer = train_bpe(list(training_texts(examples, config)), min(config.llm.vocab_size, 4096))
    encoded = [encode_example(e, "text", config, tokenizer, profile=e.listener_profile) for e in examples]
    tokenizer.eos_id = -1  # no token ends an answer: each is as long as asked for
    prompts = [e.ids[: e.prompt_length] for e in encoded]
    budgets = [len(e.ids) - e.prompt_length - 1 for e in encoded]  # </s> is not written
    longest = max(examples, key=lambda e: e.turn_id).conversation_id
    turns = [n for n, e in enumerate(examples) if e.conversation_id == longest]
    order = np.random.default_rng(0).permutation(len(examples))[: 6 if smoke else PROMPTS]
    if smoke:
        budgets = [1 + budget % 8 for budget in budgets]
    return Corpus(
        config, tokenizer, [prompts[n] for n in order], [budgets[n] for n in order], [prompts[n] for n in turns]
    )


def compare_tokens(outputs: dict[str, list], dtype: str) -> dict:
    """Return the share of equal tokens of both sides in the last run."""
    ours, peers = (np.concatenate(outputs[name][-1]) for name in ("ours", "peer"))
    share = float(np.mean(ours == peers))
    return {"equal_tokens": round(share, 3), "void": share < AGREEMENT[dtype]}


def compare_with(name: str, work: float, seconds: dict[str, list[float]]) -> dict:
    """Return the value of another program of ours, and our ratio to it."""
    ratios = [other / ours for ours, other in zip(seconds["ours"], seconds[name], strict=True)]
    value = work / statistics.median(seconds[name])
    return {f"{name}_value": float(f"{value:.4g}"), f"ratio_to_{name}": round(statistics.median(ratios), 3)}


def measure_test_set(args, decoder: Decoder, peer: Peer | None, corpus: Corpus, *, repetitions: int) -> dict:
    """Return the row `test_set`."""
    batch_size, prompts, budgets = 2 if args.smoke else BATCH_SIZE, corpus.prompts, corpus.budgets
    engine = corpus.make_engine(decoder, batch=batch_size, max_new_tokens=max(budgets))
    requests = list(map(make_prompt, prompts, budgets))
    outputs, stats = {"ours": [], "static": [], "peer": []}, []
    programs = {
        "ours": engine_test_set(engine, requests, outputs=outputs["ours"], stats=stats),
        "static": flax_static(decoder, prompts, budgets, batch_size=batch_size, outputs=outputs["static"]),
    }
    if peer:
        programs["peer"] = peer_static(peer, prompts, budgets, batch_size=batch_size, outputs=outputs["peer"])
    seconds = measure.time_in_turn(programs, repetitions)
    dtype, work = decoder.llm.config.compute_dtype, sum(budgets)
    equal = np.mean(np.concatenate(outputs["ours"][-1]) == np.concatenate(outputs["static"][-1]))
    steps = sum(batch_size * max(budgets[n] for n in numbers) for numbers in static_batches(prompts, batch_size))
    facts = {
        "shape": args.shape,
        "dtype": dtype,
        "prompts": len(prompts),
        "slots": batch_size,
        "prompt_tokens": sum(map(len, prompts)),
        "new_tokens": work,
        "occupancy": round(stats[-1].occupancy, 3),
        "static_occupancy": round(work / steps, 3),
        **compare_with("static", work, seconds),
        "static_equal_tokens": round(float(equal), 3),
        **(compare_tokens(outputs, dtype) if peer else {}),
    }
    return measure.rate_row("test_set", work, "tokens/s", seconds, **facts)


def measure_turns(args, decoder: Decoder, peer: Peer | None, corpus: Corpus, *, repetitions: int) -> dict:
    """Return the row `next_turn`."""
    prompts, engine = corpus.turns, corpus.make_engine(decoder, batch=1, max_new_tokens=1)
    requests = [make_prompt(ids, 1) for ids in prompts]
    outputs, reused = {"ours": [], "whole": [], "peer": []}, []
    programs = {
        "ours": engine_turns(engine, requests, reuse=True, outputs=outputs["ours"], reused=reused),
        "whole": engine_turns(engine, requests, reuse=False, outputs=outputs["whole"], reused=[]),
    }
    if peer:
        programs["peer"] = lambda: outputs["peer"].append(peer_turns(peer, prompts))
    seconds = measure.time_in_turn(programs, repetitions)
    dtype, work = decoder.llm.config.compute_dtype, len(prompts)
    facts = {
        "shape": args.shape,
        "dtype": dtype,
        "turns": work,
        "prompt_tokens": sum(map(len, prompts)),
        "reused": round(float(np.mean(reused)), 3),
        **compare_with("whole", work, seconds),
        "whole_equal_tokens": round(float(np.mean(np.array(outputs["ours"][-1]) == outputs["whole"][-1])), 3),
        **(compare_tokens(outputs, dtype) if peer else {}),
    }
    return measure.rate_row("next_turn", work, "first tokens/s", seconds, **facts)


def peer_turns(peer: Peer, prompts: list[np.ndarray]) -> list[list[int]]:
    """Return the first token of each turn's answer, each prompt prefilled in full."""
    answers: list[np.ndarray] = []
    for prompt in prompts:
        peer.program([prompt], answers, 1)()
    return [answer[0].tolist() for answer in answers]


def main(args) -> None:
    prompt_length, max_new_tokens, repetitions = (
        (16, 8, 1) if args.smoke else (PROMPT_LENGTH, NEW_TOKENS, measure.REPETITIONS)
    )
    config = LLMS[args.shape]
    decoder = Decoder(config, max_new_tokens)
    peer = Peer(decoder, max_new_tokens) if args.peer else None
    copy = measure.copy_rate(0.1 if args.shape == "tiny" else 2.0)
    parameters = sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(decoder.state))
    rng, rows = np.random.default_rng(0), []
    for batch in (1, 4):
        prompts = [rng.integers(0, config.vocab_size, prompt_length - row * prompt_length // 8) for row in range(batch)]
        outputs: dict[str, list[np.ndarray]] = {"ours": [], "peer": []}
        programs = {"ours": decoder.program(prompts, outputs["ours"])}
        facts = {
            "shape": args.shape,
            "dtype": config.compute_dtype,
            "prompt": prompt_length,
            "new_tokens": max_new_tokens,
        }
        if peer:
            programs["peer"] = peer.program(prompts, outputs["peer"])
        seconds = measure.time_in_turn(programs, repetitions)
        if peer:
            equal = float(np.mean(outputs["ours"][-1] == outputs["peer"][-1]))
            facts |= {"equal_tokens": round(equal, 3), "void": equal < AGREEMENT[config.compute_dtype]}
        result = measure.rate_row(f"batch_{batch}", batch * max_new_tokens, "tokens/s", seconds, **facts)
        # Every step reads all weights once: the bytes that memory has to deliver, whatever the arithmetic.
        gigabytes = parameters * result["value"] / batch / 1e9
        result |= {"weights_read_GB_per_s": round(gigabytes, 1)} | measure.memory_bound(1e9 * gigabytes, 1.0, copy)
        rows.append(result | measure.device_peak())
    corpus = load_corpus(args.shape, args.smoke)
    rows.append(measure_test_set(args, decoder, peer, corpus, repetitions=repetitions))
    rows.append(measure_turns(args, decoder, peer, corpus, repetitions=repetitions))
    measure.report(rows, args)


if __name__ == "__main__":
    main(ARGS)
