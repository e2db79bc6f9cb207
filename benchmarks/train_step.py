"""Measure a LoRA step in real tokens a second, beside transformers + peft + torch.

python benchmarks/train_step.py --peer torch [--shape tiny|100m|1b|7b] [--smoke] [--record]

The same Examples, weights, loss and AdamW on both sides. Rows:
  as_users_do           we pack rows; the peer pads each micro-batch to its longest, at the micro-batch size that is
                        fastest for it and fits, with gradient checkpointing on or off, whichever is faster
  peer_head_at_targets  the same, but the peer too computes logits only where there are targets
  equal_shapes          both get the same full rows [B, T], loss everywhere: the gain without packing and head
A ratio is void ("void": true) when the losses after all steps differ by more than the tolerance.
Only the Examples' own tokens count: no padding, and nothing that was truncated.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import measure

if __name__ == "__main__":
    _parser = measure.build_parser(__doc__, shapes=("tiny", "100m", "1b", "7b"))
    _parser.add_argument("--attention", choices=("xla", "cudnn"), default="xla", help="ours; the peer's is sdpa")
    _parser.add_argument("--steps", type=int, default=20, help="a run")
    _parser.add_argument("--repetitions", type=int, default=measure.REPETITIONS, help="runs of each program")
    ARGS = _parser.parse_args()
    measure.stay_on_one_core(ARGS.core)

import absl.flags  # noqa: E402
import jax  # noqa: E402
import numpy as np  # noqa: E402
from flax import nnx  # noqa: E402
from shapes import bench_config, write_text_corpus  # noqa: E402

from empatheia_jax.data.batches.batch import Batch  # noqa: E402
from empatheia_jax.data.batches.pipeline import training_batches  # noqa: E402
from empatheia_jax.model import sharding  # noqa: E402
from empatheia_jax.model.construct import abstract_model, initialise  # noqa: E402
from empatheia_jax.monitoring.clock import Clock  # noqa: E402
from empatheia_jax.planning import flops  # noqa: E402
from empatheia_jax.runtime.machine import keep_memory  # noqa: E402
from empatheia_jax.runtime.processes import global_batch  # noqa: E402
from empatheia_jax.training.compilation import compile_stage  # noqa: E402
from empatheia_jax.training.context import TrainingContext  # noqa: E402
from empatheia_jax.training.data import Data, load_data  # noqa: E402
from empatheia_jax.training.optim import schedule  # noqa: E402
from empatheia_jax.training.stages import resolve_stages  # noqa: E402

TOLERANCE = {"float32": 1e-3, "bfloat16": 1e-2}  # relative


class WholeRowContext(TrainingContext):
    """The context of a run whose Examples may be as long as a batch row, so that attention covers all of it."""

    def rows(self, *args):
        rows = super().rows(*args)
        rows.bounds = rows.bounds._replace(max_segment_length=None)
        return rows


class Trainer:
    """Our stage 1 on a fixed list of batches, through the code that `train.py` runs."""

    def __init__(self, config, folder: Path):
        self.config, self.mesh = config, sharding.make_mesh(config.mesh, jax.devices()[:1])
        data = load_data(folder, config)
        data = Data(data.train + data.validation, [], data.tokenizer, None, None, {})
        context = TrainingContext(folder, config, self.mesh, data, Clock())
        graphdef, abstract = abstract_model(config, None, self.mesh)
        self.state, stage = initialise(config, None, abstract), resolve_stages(config)[1]
        flat = dict(nnx.to_flat_state(self.state))
        for path, variable in flat.items():
            if path[-1] == "lora_b":  # zeros would hide a peer with broken adapters
                noise = 0.02 * jax.random.normal(jax.random.key(len(str(path[-2]))), variable.shape, variable.dtype)
                flat[path] = variable.replace(noise)
        self.state = nnx.from_flat_state(list(flat.items()))
        self.model = nnx.merge(graphdef, self.state)
        with measure.Compiling() as clock:
            self.prepared = compile_stage(context, stage, graphdef, abstract)
        self.compile_s = round(clock.seconds, 2)
        whole_rows = WholeRowContext(folder, config, self.mesh, data, Clock())
        self.prepared_whole_rows = compile_stage(whole_rows, stage, graphdef, abstract)
        self.batches = list(training_batches(self.prepared.rows, 0, self.prepared.steps, threads=1))
        self.ids = [[int(i) for i in batch.example_id.ravel() if i >= 0] for batch in self.batches]

    def program(self, batches: list[Batch], losses: list[float], whole_rows: bool = False):
        """Return a function that trains over `batches` from the initial state and appends the last loss to `losses`.

        Args:
          batches: as the data pipeline yields them.
          losses: of the last step of each run.
          whole_rows: the batches' Examples may be as long as a batch row.
        """
        prepared = self.prepared_whole_rows if whole_rows else self.prepared
        assert prepared.flat is not None  # on one device
        trainable, frozen = prepared.split(self.state)
        with jax.set_mesh(self.mesh):
            start = jax.jit(prepared.flat.ravel)(trainable)
            initial = jax.jit(lambda x: (x + 0, prepared.init(x)))

        def run():
            with jax.set_mesh(self.mesh):
                vector, opt_state = initial(start)
                for batch in batches:
                    placed = global_batch(batch, self.mesh, prepared.rows.config.data.rows)
                    vector, opt_state, values = prepared.step(vector, opt_state, frozen, placed, jax.random.key(0))
                losses.append(float(values["loss"]))

        return run


def full_rows(trainer: Trainer, count: int) -> list[Batch]:
    """Return batches of the same shapes whose rows are one segment without padding, with as many targets as fit."""
    ids = np.concatenate([encoded.ids for encoded in trainer.prepared.rows.encoded])
    data = trainer.config.data
    rows, length, targets = data.rows, data.row_tokens, data.row_targets
    batches = []
    for number in range(count):
        tokens = np.stack([np.roll(ids, -(number * rows + b) * length)[:length] for b in range(rows)])[None]
        mask = np.zeros(tokens.shape, bool)
        mask[..., length - 1 - targets : length - 1] = True
        batch = dataclasses.replace(
            jax.tree.map(np.zeros_like, trainer.batches[0]),
            tokens=tokens,
            segment_ids=np.ones_like(tokens),
            target_mask=mask,
            positions=np.broadcast_to(np.arange(length, dtype=np.int32), tokens.shape).copy(),
            targets=np.roll(tokens, -1, axis=-1),
        )
        batches.append(batch)
    return batches


class Peer:
    """transformers + peft, AdamW over the adapters, the same schedule and clipping."""

    def __init__(self, trainer: Trainer):
        import peer

        self.peer, self.torch = peer, peer.torch
        config = trainer.config
        self.config, self.rows = config, trainer.prepared.rows
        self.model = peer.with_lora(peer.transformers_llama(trainer.model.llm), trainer.model.llm, config.lora)
        self.trained = [p for p in self.model.parameters() if p.requires_grad]
        self.start = [p.detach().clone() for p in self.trained]
        self.rates = schedule(trainer.prepared.stage.settings, trainer.prepared.steps)

    def padded(self, ids: list[int], size: int) -> list[tuple]:
        """Return micro-batches (tokens, attention mask, labels) of `size` Examples, padded to the longest."""
        torch, batches = self.torch, []
        for start in range(0, len(ids), size):
            chosen = [self.rows.encoded[i] for i in ids[start : start + size]]
            longest = max(len(e.ids) for e in chosen)
            tokens = np.zeros((len(chosen), longest), np.int64)
            mask, labels = np.zeros_like(tokens), np.full_like(tokens, -100)
            for row, e in enumerate(chosen):
                tokens[row, : len(e.ids)], mask[row, : len(e.ids)] = e.ids, 1
                labels[row, : len(e.ids)] = np.where(e.loss_mask, e.ids, -100)
            batches.append(tuple(torch.from_numpy(a).to(self.peer.DEVICE) for a in (tokens, mask, labels)))
        return batches

    def unpadded(self, batch: Batch) -> list[tuple]:
        """Return a batch of full rows as one micro-batch (tokens, None, labels)."""
        tokens = batch.tokens[0].astype(np.int64)
        labels = np.full_like(tokens, -100)
        labels[:, 1:] = np.where(batch.target_mask[0], batch.targets[0], -100)[:, :-1]
        tokens, labels = (self.torch.from_numpy(array).to(self.peer.DEVICE) for array in (tokens, labels))
        return [(tokens, None, labels)]

    def program(self, steps: list[list[tuple]], losses: list[float], head_at_targets: bool = False):
        """Return a function that trains over the micro-batches of each step and appends the last loss to `losses`."""
        torch, optim = self.torch, self.config.optim

        def compute_loss(tokens, mask, labels, count):
            if not head_at_targets:
                return self.model(
                    input_ids=tokens, attention_mask=mask, labels=labels, num_items_in_batch=count, use_cache=False
                ).loss
            inner = self.model.get_submodule("base_model.model")
            outputs = inner.get_submodule("model")(input_ids=tokens, attention_mask=mask, use_cache=False)
            has_target = labels[:, 1:] != -100
            logits = inner.get_submodule("lm_head")(outputs.last_hidden_state[:, :-1][has_target]).float()
            return torch.nn.functional.cross_entropy(logits, labels[:, 1:][has_target], reduction="sum") / count

        def run():
            with torch.no_grad():
                for parameter, value in zip(self.trained, self.start, strict=True):
                    parameter.copy_(value)
            optimizer = torch.optim.AdamW(
                self.trained, lr=0.0, betas=(optim.b1, optim.b2), weight_decay=optim.weight_decay
            )
            for number, batches in enumerate(steps):
                for group in optimizer.param_groups:
                    group["lr"] = float(np.asarray(self.rates(number)))
                count, total = sum((labels[:, 1:] != -100).sum() for *_, labels in batches), 0.0
                for tokens, mask, labels in batches:
                    loss = compute_loss(tokens, mask, labels, count)
                    loss.backward()
                    total = total + loss.detach()
                torch.nn.utils.clip_grad_norm_(self.trained, optim.clip_norm)
                optimizer.step()
                optimizer.zero_grad(set_to_none=True)
            losses.append(float(total))
            self.peer.synchronize()

        return run

    def choose_fastest(self, ids: list[list[int]]) -> dict[str, int | bool]:
        """Choose micro-batch size and gradient checkpointing so that these steps take the peer the least time."""
        seconds: dict[tuple[int, bool], float] = {}
        for checkpointing in (False, True):
            self.set_checkpointing(checkpointing)
            for size in (1, 2, 4, 8, 16, 32):
                if size // 2 >= max(map(len, ids)):
                    break
                program = self.program([self.padded(step_ids, size) for step_ids in ids], [])
                try:
                    program()
                    start = time.perf_counter()
                    program()
                except self.torch.OutOfMemoryError:
                    self.torch.cuda.empty_cache()
                    break  # larger ones do not fit either
                seconds[size, checkpointing] = time.perf_counter() - start
        size, checkpointing = min(seconds, key=lambda choice: seconds[choice])
        self.set_checkpointing(checkpointing)
        return {"peer_batch": size, "peer_checkpointing": checkpointing}

    def set_checkpointing(self, enabled: bool) -> None:
        """Recompute the layers' activations in the backward pass, or keep them."""
        if enabled:
            self.model.gradient_checkpointing_enable({"use_reentrant": False})
        else:
            self.model.gradient_checkpointing_disable()


def model_flops(config, tokens: int, targets: int, mean_context: float) -> tuple[float, float]:
    """Return model FLOPs of stage 1's steps, and the FLOPs of what is recomputed (`empatheia_jax.planning.flops`)."""
    load = flops.Load(float(tokens), mean_context, float(targets), 0.0, (0.0, 0.0))
    stage = resolve_stages(config)[1]
    return flops.training_step(config, stage, None, load), flops.recomputed(config, stage, load)


def main(args) -> None:
    keep_memory()
    steps, repetitions = (2, 1) if args.smoke else (args.steps, args.repetitions)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_text_corpus(folder)
        trainer = Trainer(bench_config(args.shape, folder, args.attention), folder)
    peer = Peer(trainer) if args.peer else None
    config, encoded = trainer.config, trainer.prepared.rows.encoded
    dtype = config.llm.compute_dtype
    peak = measure.matmul_peak(dtype, 8192 if args.shape in ("1b", "7b") else 1024)
    steps = min(steps, len(trainer.batches))
    ids = trainer.ids[:steps]
    packed = sum(len(encoded[i].ids) for step_ids in ids for i in step_ids)
    targets = sum(int(encoded[i].loss_mask.sum()) for step_ids in ids for i in step_ids)
    full = full_rows(trainer, steps)
    cells = steps * config.data.rows * config.data.row_tokens
    context = sum(len(encoded[i].ids) ** 2 for step_ids in ids for i in step_ids) / packed / 2
    full_targets = steps * config.data.rows * config.data.row_targets
    cases = {
        "as_users_do": (trainer.batches[:steps], packed, targets, context),
        "peer_head_at_targets": (trainer.batches[:steps], packed, targets, context),
        "equal_shapes": (full, cells, full_targets, config.data.row_tokens / 2),
    }
    choice = peer.choose_fastest(ids[: min(3, steps)]) if peer else {}
    rows = []
    for name, (batches, tokens, num_targets, mean_context) in cases.items():
        losses: dict[str, list[float]] = {"ours": [], "peer": []}
        whole_rows = name == "equal_shapes"
        programs = {"ours": trainer.program(batches, losses["ours"], whole_rows)}
        facts = {"shape": args.shape, "dtype": dtype, "attention": args.attention, "steps": steps, "tokens": tokens}
        if peer:
            size = choice["peer_batch"]
            padded = [peer.unpadded(b) for b in batches] if whole_rows else [peer.padded(i, size) for i in ids]
            programs["peer"] = peer.program(padded, losses["peer"], name == "peer_head_at_targets")
            facts |= {} if whole_rows else {"peer_batch": size}
            facts["peer_checkpointing"] = choice["peer_checkpointing"]
        seconds = measure.time_in_turn(programs, repetitions)
        facts["loss"] = round(losses["ours"][-1], 5)
        if peer:
            facts["peer_loss"] = round(losses["peer"][-1], 5)
            difference = abs(losses["ours"][-1] - losses["peer"][-1]) / abs(losses["peer"][-1])
            facts["void"] = bool(difference > TOLERANCE[dtype])
        result = measure.rate_row(name, tokens, "real tokens/s", seconds, **facts)
        needed, recomputed = model_flops(config, tokens, num_targets, mean_context)
        run_seconds = tokens / result["value"]
        result |= {"share_of_matmul": round(needed / run_seconds / peak, 3)} | measure.utilisation(
            needed, recomputed, run_seconds
        )
        rows.append(result | measure.device_peak())
    rows[0] |= {"rows_filled": round(packed / cells, 3), "compile_s": trainer.compile_s}
    measure.report(rows, args)


if __name__ == "__main__":
    absl.flags.FLAGS.mark_as_parsed()
    main(ARGS)
