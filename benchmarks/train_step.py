"""How many real tokens a second does a LoRA step take, beside transformers + peft + torch?

python benchmarks/train_step.py --peer torch [--shape tiny|100m|1b|7b] [--smoke] [--record]

The same Examples, weights, loss and AdamW on both sides. Rows:
  as_users_do           we pack rows; the peer pads each micro-batch to its longest, at the micro-batch size that is
                        fastest for it and fits, with gradient checkpointing on or off, whichever is faster
  peer_head_at_targets  the same, but the peer too computes logits only where there are targets
  equal_shapes          both get the same full rows [B, T], loss everywhere: what packing and the head do not explain
A ratio is void ("void": true) when the losses after all steps differ by more than the tolerance.
Tokens are the Examples' own: padding and truncation never count.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import measure

if __name__ == "__main__":
    _parser = measure.parser(__doc__, shapes=("tiny", "100m", "1b", "7b"))
    _parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="ours; the peer's is sdpa")
    _parser.add_argument("--steps", type=int, default=20, help="a run")
    _parser.add_argument("--repetitions", type=int, default=measure.REPETITIONS, help="runs of each program")
    ARGS = _parser.parse_args()
    measure.on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import bench_config, write_words  # noqa: E402

from empatheia_jax import flops, sharding  # noqa: E402
from empatheia_jax.data.pipeline import training_batches  # noqa: E402
from empatheia_jax.machine import keep_memory  # noqa: E402
from empatheia_jax.processes import global_batch  # noqa: E402
from empatheia_jax.training.clock import Clock  # noqa: E402
from empatheia_jax.training.optim import schedule  # noqa: E402
from empatheia_jax.training.prepare import prepare  # noqa: E402
from empatheia_jax.training.run import Run, abstract_model, initialise  # noqa: E402
from empatheia_jax.training.run_data import Data, load_data  # noqa: E402
from empatheia_jax.training.stages import stage  # noqa: E402

TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}  # relative; the issue's 1e-3 is float32's


class WholeRows(Run):
    """A run whose Examples may be as long as a row, so that attention reads all of it."""

    def rows(self, *of):
        rows = super().rows(*of)
        rows.bounds = rows.bounds._replace(longest=None)
        return rows


class Ours:
    """Our stage 1, through the code that `train.py` runs."""

    def __init__(self, config, folder: Path):
        self.config, self.mesh = config, sharding.make_mesh(config.mesh, jax.devices()[:1])
        data = load_data(folder, config)
        data = Data(data.train + data.validation, [], data.tokenizer, None, None, {})
        self.run = Run(folder, config, self.mesh, data, None, None, Clock(), None, None)
        graphdef, abstract = abstract_model(config, None, self.mesh)
        self.state = initialise(config, None, abstract)
        flat = dict(nnx.to_flat_state(self.state))
        for path, variable in flat.items():
            if path[-1] == "lora_b":  # zeros would let a peer with broken adapters pass
                noise = 0.02 * jax.random.normal(jax.random.key(len(path[-2])), variable.shape, variable.dtype)
                flat[path] = variable.replace(noise)
        self.state = nnx.from_flat_state(list(flat.items()))
        self.model = nnx.merge(graphdef, self.state)
        with measure.Compiling() as clock:
            self.prepared = prepare(self.run, stage(1, config), graphdef, abstract)
        self.compile_s = round(clock.seconds, 2)
        fields = {field.name: getattr(self.run, field.name) for field in dataclasses.fields(Run)}
        self.prepared_whole = prepare(WholeRows(**fields), stage(1, config), graphdef, abstract)
        rows = self.prepared.rows
        steps = self.prepared.steps
        self.batches = list(training_batches(rows, 0, steps, threads=1))
        self.ids = [[int(i) for i in batch["example_id"].ravel() if i >= 0] for batch in self.batches]

    def program(self, batches: list[dict], losses: list[float], whole: bool = False):
        """Train over `batches` (with `whole`: of whole rows) from the start; the last loss is appended to `losses`."""
        prepared = self.prepared_whole if whole else self.prepared
        trainable, frozen = prepared.split(self.state)
        with jax.set_mesh(self.mesh):
            start = jax.jit(prepared.flat.ravel)(trainable)
            fresh = jax.jit(lambda x: (x + 0, prepared.init(x)))

        def run():
            with jax.set_mesh(self.mesh):
                vector, opt_state = fresh(start)
                for batch in batches:
                    placed = global_batch(batch, self.mesh, prepared.rows.config.data.rows)
                    vector, opt_state, values = prepared.step(vector, opt_state, frozen, placed, jax.random.key(0))
                losses.append(float(values["loss"]))

        return run


def full_rows(ours: Ours, count: int) -> list[dict]:
    """Batches of the same shapes whose rows are one segment without padding, with loss on as many as rows may hold."""
    ids = np.concatenate([encoded.ids for encoded in ours.prepared.rows.encoded])
    data = ours.config.data
    rows, length, targets = data.rows, data.row_tokens, data.row_targets
    batches = []
    for number in range(count):
        tokens = np.stack([np.roll(ids, -(number * rows + b) * length)[:length] for b in range(rows)])[None]
        batch = {name: np.zeros_like(array) for name, array in ours.batches[0].items()}
        mask = np.zeros(tokens.shape, bool)
        mask[..., length - 1 - targets : length - 1] = True
        batch |= {
            "tokens": tokens,
            "segment_ids": np.ones_like(tokens),
            "target_mask": mask,
            "positions": np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
            "targets": np.roll(tokens, -1, axis=-1),
            "example_id": np.zeros_like(batch["example_id"]),
        }
        batches.append(batch)
    return batches


class Peer:
    """transformers + peft, AdamW over the adapters, the same schedule and clipping."""

    def __init__(self, ours: Ours):
        import peer

        self.peer, self.torch = peer, peer.torch
        config = ours.config
        self.config, self.rows = config, ours.prepared.rows
        self.model = peer.with_lora(peer.transformers_llama(ours.model.llm), ours.model.llm, config.lora)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        self.rates = schedule(config.stages["1"], ours.prepared.steps)

    def padded(self, ids: list[int], size: int) -> list[tuple]:
        """Micro-batches (tokens, attention mask, labels) of `size` Examples, each as long as its longest."""
        torch, batches = self.torch, []
        for start in range(0, len(ids), size):
            chosen = [self.rows.encoded[i] for i in ids[start : start + size]]
            longest = max(len(e.ids) for e in chosen)
            tokens = np.zeros((len(chosen), longest), np.int64)
            mask, labels = np.zeros_like(tokens), np.full_like(tokens, -100)
            for row, e in enumerate(chosen):
                tokens[row, : len(e.ids)], mask[row, : len(e.ids)] = e.ids, 1
                labels[row, : len(e.ids)] = np.where(e.loss, e.ids, -100)
            batches.append(tuple(torch.from_numpy(a).to(self.peer.DEVICE) for a in (tokens, mask, labels)))
        return batches

    def grid(self, batch: dict) -> list[tuple]:
        """A batch of full rows as one micro-batch without a mask."""
        tokens = batch["tokens"][0].astype(np.int64)
        labels = np.full_like(tokens, -100)
        labels[:, 1:] = np.where(batch["target_mask"][0], batch["targets"][0], -100)[:, :-1]
        tokens, labels = (self.torch.from_numpy(array).to(self.peer.DEVICE) for array in (tokens, labels))
        return [(tokens, None, labels)]

    def program(self, steps: list[list[tuple]], losses: list[float], head_at_targets: bool = False):
        torch, optim = self.torch, self.config.optim

        def loss_of(tokens, mask, labels, count):
            if not head_at_targets:
                return self.model(
                    input_ids=tokens, attention_mask=mask, labels=labels, num_items_in_batch=count, use_cache=False
                ).loss
            inner = self.model.base_model.model
            hidden = inner.model(input_ids=tokens, attention_mask=mask, use_cache=False).last_hidden_state[:, :-1]
            wanted = labels[:, 1:] != -100
            logits = inner.lm_head(hidden[wanted]).float()
            return torch.nn.functional.cross_entropy(logits, labels[:, 1:][wanted], reduction="sum") / count

        def run():
            with torch.no_grad():
                for parameter, value in zip(self.trained, self.start, strict=True):
                    parameter.copy_(value)
            optimizer = torch.optim.AdamW(
                self.trained, lr=0.0, betas=(optim.b1, optim.b2), weight_decay=optim.weight_decay
            )
            for number, batches in enumerate(steps):
                for group in optimizer.param_groups:
                    group["lr"] = float(self.rates(number))
                count, total = sum((labels[:, 1:] != -100).sum() for *_, labels in batches), 0.0
                for tokens, mask, labels in batches:
                    loss = loss_of(tokens, mask, labels, count)
                    loss.backward()
                    total = total + loss.detach()
                torch.nn.utils.clip_grad_norm_(self.trained, optim.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(float(total))
            self.peer.wait()

        return run

    def settle(self, ids: list[list[int]]) -> dict[str, int | bool]:
        """Take what takes the peer least time for these steps: micro-batch size, gradient checkpointing on or off."""
        seconds: dict[tuple[int, bool], float] = {}
        for again in (False, True):
            self.checkpointing(again)
            for size in (1, 2, 4, 8, 16, 32):
                if size // 2 >= max(map(len, ids)):
                    break
                program = self.program([self.padded(one, size) for one in ids], [])
                try:
                    program()
                    start = time.perf_counter()
                    program()
                except self.torch.OutOfMemoryError:
                    self.torch.cuda.empty_cache()
                    break  # nor does a larger one fit
                seconds[size, again] = time.perf_counter() - start
        size, again = min(seconds, key=seconds.get)
        self.checkpointing(again)
        return {"peer_batch": size, "peer_checkpointing": again}

    def checkpointing(self, on: bool) -> None:
        """Compute the layers' activations again on the way back, or keep them."""
        if on:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()


def model_flops(config, tokens: int, targets: int, mean_context: float) -> tuple[float, float]:
    """Of stage 1's steps, model FLOPs and what is computed again (`empatheia_jax.flops`)."""
    load = flops.Load(float(tokens), mean_context, float(targets), 0.0, (0.0, 0.0))
    return flops.training_step(config, stage(1, config), None, load), flops.recomputed(config, stage(1, config), load)


def main(args) -> None:
    keep_memory()
    steps, repetitions = (2, 1) if args.smoke else (args.steps, args.repetitions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_words(folder)
        ours = Ours(bench_config(args.shape, folder, args.attention), folder)
    peer = Peer(ours) if args.peer else None
    config, encoded = ours.config, ours.prepared.rows.encoded
    dtype = config.llm.compute_dtype
    peak = measure.matmul_peak(dtype, 8192 if args.shape in ("1b", "7b") else 1024)
    steps = min(steps, len(ours.batches))
    ids = ours.ids[:steps]
    packed = sum(len(encoded[i].ids) for one in ids for i in one)
    targets = sum(int(encoded[i].loss.sum()) for one in ids for i in one)
    grid = full_rows(ours, steps)
    cells = steps * config.data.rows * config.data.row_tokens
    context = sum(len(encoded[i].ids) ** 2 for one in ids for i in one) / packed / 2
    grid_targets = steps * config.data.rows * config.data.row_targets
    cases = {
        "as_users_do": (ours.batches[:steps], packed, targets, context),
        "peer_head_at_targets": (ours.batches[:steps], packed, targets, context),
        "equal_shapes": (grid, cells, grid_targets, config.data.row_tokens / 2),
    }
    settled = peer.settle(ids[: min(3, steps)]) if peer else {}
    rows = []
    for name, (batches, tokens, wanted, mean) in cases.items():
        losses: dict[str, list[float]] = {"ours": [], "peer": []}
        whole = name == "equal_shapes"
        programs = {"ours": ours.program(batches, losses["ours"], whole)}
        facts = {"shape": args.shape, "dtype": dtype, "attention": args.attention, "steps": steps, "tokens": tokens}
        if peer:
            size = settled["peer_batch"]
            padded = [peer.grid(b) for b in batches] if whole else [peer.padded(i, size) for i in ids]
            programs["peer"] = peer.program(padded, losses["peer"], name == "peer_head_at_targets")
            facts |= {} if whole else {"peer_batch": size}
            facts["peer_checkpointing"] = settled["peer_checkpointing"]
        seconds = measure.in_turn(programs, repetitions)
        facts["loss"] = round(losses["ours"][-1], 5)
        if peer:
            facts["peer_loss"] = round(losses["peer"][-1], 5)
            difference = abs(losses["ours"][-1] - losses["peer"][-1]) / abs(losses["peer"][-1])
            facts["void"] = bool(difference > TOLERANCE[dtype])
        result = measure.row(name, tokens, "real tokens/s", seconds, **facts)
        needed, again = model_flops(config, tokens, wanted, mean)
        took = tokens / result["value"]
        result |= {"share_of_matmul": round(needed / took / peak, 3)} | measure.utilisation(needed, again, took)
        rows.append(result | measure.device_peak())
    rows[0] |= {"rows_filled": round(packed / cells, 3), "compile_s": ours.compile_s}
    measure.report(rows, args)


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    main(ARGS)
