"""Train Empatheia: a run from top to bottom.

python train.py configs/tiny.py --workdir runs/tiny [--stages 0,1,2,3,4] [--resume] [--profile] [--data.path DIR ...]
"""

import argparse
import contextlib
import errno
import functools
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from empatheia_jax.runtime import program

if __name__ == "__main__":  # before the imports that take seconds
    program.begin("train.py", "--resume goes on from the newest checkpoint, if there is one", survives_hangup=True)

import jax
from flax import nnx

from empatheia_jax.checkpoints.manifest import set_aside_damaged
from empatheia_jax.checkpoints.named_arrays import DiskError
from empatheia_jax.checkpoints.restore import find_base, is_complete, load_adapter, read_base, read_checkpoint
from empatheia_jax.checkpoints.runs import Checkpoints, Position, identify_base, save_base
from empatheia_jax.checkpoints.workdir import check_inputs, check_workdir, claim_workdir, save_config
from empatheia_jax.config import Config
from empatheia_jax.config.load import load_config
from empatheia_jax.data.batches.pipeline import step_example_ids
from empatheia_jax.data.prompts.dialogue import first_label_tokens
from empatheia_jax.model import sharding
from empatheia_jax.model.construct import abstract_model, as_stored, describe, initialise
from empatheia_jax.model.empatheia import calibrate_new_parameters
from empatheia_jax.model.parameter_groups import ADAPTED, in_groups
from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.monitoring.goodput import Goodput, summary
from empatheia_jax.monitoring.stop import Stop
from empatheia_jax.monitoring.sync import ProcessSync
from empatheia_jax.monitoring.watchdog import STALL, Watchdog
from empatheia_jax.profiling.capture import Profile
from empatheia_jax.runtime import peers, processes
from empatheia_jax.runtime.compile_cache import use_cache
from empatheia_jax.runtime.compile_report import compilations
from empatheia_jax.runtime.machine import keep_memory
from empatheia_jax.runtime.platforms import check_devices
from empatheia_jax.training.compilation import StageCompiler
from empatheia_jax.training.context import TrainingContext
from empatheia_jax.training.data import load_data
from empatheia_jax.training.loop import StepLog, as_trees, begin_stage, device_batches, evaluate, use_cached_states
from empatheia_jax.training.metrics import Metrics, NoMetrics
from empatheia_jax.training.stages import Stage, choose_stages, left_out
from empatheia_jax.training.whiten import whiten

DISK_FULL = 74  # EX_IOERR of sysexits.h: to be started again once there is space


def parse(argv: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Return the flags of `train.py`, and what is left: flags that override fields of the config."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("config")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument("--stages", default="0,1,2,3,4")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--on-error", choices=("stop", "skip"), help="at a bad record: end, or count it and continue")
    parser.add_argument(
        "--distributed", action="store_true", help="this is one of several processes, which JAX finds from the cluster"
    )
    parser.add_argument(
        "--heartbeat",
        type=int,
        default=peers.HEARTBEAT,
        metavar="SECONDS",
        help="a process that does not answer for so long ends the others (default: %(default)s)",
    )
    parser.add_argument(
        "--stall",
        type=float,
        default=STALL,
        metavar="SECONDS",
        help="a step or a wait for data that takes so long ends this process; 0: never (default: %(default)s)",
    )
    parser.add_argument("--profile", nargs="?", const="", metavar="DIR", help="trace some steps of every stage")
    parser.add_argument("--profile-steps", type=int, default=5, help="how many, after a few to warm up")
    args, overrides = parser.parse_known_args(argv)
    return args, overrides + (["--data.on-error", args.on_error] if args.on_error else [])


def main(argv: list[str]) -> int:
    """Train the stages of a config and return the exit code, 0; errors are `run`'s to report."""
    args, overrides = parse(argv)
    profile = Profile(args.workdir / "profile" if args.profile == "" else args.profile, args.profile_steps)
    processes.join(args.distributed, args.heartbeat)
    clock = Clock()
    watchdog = Watchdog(clock, args.stall)

    # ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────
    config = load_config(args.config, overrides)
    stages = choose_stages(config, [int(number) for number in args.stages.split(",")])
    check_devices()
    with claim_workdir(args.workdir):
        check_inputs(args.workdir, config, args.config, resume=args.resume, trains_base=stages[0].trains_base)
        check_workdir(args.workdir, config, resume=args.resume, trains_base=stages[0].trains_base)
        return train(args, config, stages, clock, watchdog=watchdog, profile=profile)


def train(
    args: argparse.Namespace,
    config: Config,
    stages: Sequence[Stage],
    clock: Clock,
    *,
    watchdog: Watchdog,
    profile: Profile,
) -> int:
    """Train the chosen stages of a config in a folder that is this run's; return the exit code, 0."""
    workdir, trains_base = args.workdir, stages[0].trains_base

    # ── Mesh ──────────────────────────────────────────────────────────────────────────────────────────────────────
    mesh = sharding.make_mesh(config.mesh)
    processes.log_on_first(f"mesh     {dict(mesh.shape)} on {jax.devices()[0].device_kind}")
    if jax.default_backend() == "cpu":
        keep_memory()
    processes.log_on_first(f"cache    of compiled programs: {use_cache() or 'off'}")

    # ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────
    with clock("data"):
        data = load_data(workdir, config)
    save_config(workdir, config)

    # ── Model (abstract): shapes and shardings, nothing allocated ─────────────────────────────────────────────────
    with clock("load"):
        graphdef, abstract = abstract_model(config, data.widths, mesh)
    processes.log_on_first(f"model    {describe(abstract)}")

    # ── Load: every parameter is read, or drawn, onto its own devices ─────────────────────────────────────────────
    # It comes from the first of these that has it:
    # 1. The newest undamaged checkpoint, with --resume. It has the adapted parts (all, while stage 0 trains), later
    #    the optimizer too (`begin_stage`), and the position.
    # 2. The base: the converted one of `config.base`, or WORKDIR/base, once stage 0 is over.
    # 3. `config.adapter`: the LoRA of another training.
    # 4. `config.seed`: drawn, and scaled to the base if there is one; else when stage 0 ends.
    folder = workdir / "checkpoints"
    if args.resume:
        with clock("load"):
            processes.run_on_first("checkpoints", lambda: set_aside_damaged(folder))
    checkpoints = Checkpoints(folder, config.checkpoints_kept, config.checkpoints_kept_every)
    position = checkpoints.latest() if args.resume else None
    with clock("load"):
        label_tokens = first_label_tokens(data.tokenizer)
        base = find_base(workdir, config, position, trains_base=trains_base)
        state = abstract
        if not is_complete(position):
            state = initialise(config, data.widths, abstract, base=base is None)
        if base is not None:
            state = read_base(base, state)
            checkpoints.base = identify_base(base)
        if position is not None:
            if base is not None:
                checkpoints.check_base(position, checkpoints.base)
            state = read_checkpoint(checkpoints, position, state)
        elif base is not None:
            state = calibrate_new_parameters(state, data.statistics, label_tokens)
            state = load_adapter(config, state) if config.adapter else state
    resume_step = position.step if position else (0 if args.resume else None)
    metrics = Metrics(workdir, resume_step) if processes.is_first() else NoMetrics()
    goodput = Goodput(workdir, clock, resume_step or 0, writes=processes.is_first())
    stop = Stop()
    position = position or Position(0, stages[0].number, 0)
    skipped = [number for number in left_out(config, stages) if number >= position.stage]
    if skipped:
        processes.log_on_first(f"stages   {skipped} are left out: what they train stays as it is")
    stages = [stage for stage in stages if stage.number >= position.stage]  # the others are finished

    # ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────────
    context = TrainingContext(workdir, config, mesh, data, clock)
    # A compiler that runs beside the steps would show in their profile.
    ahead = config.compile_ahead and profile.folder is None
    compiler = StageCompiler(context, stages, graphdef, abstract, ahead=ahead)
    for stage in stages:
        start = position if position.stage == stage.number else Position(position.step, stage.number, 0)
        ending = contextlib.ExitStack()
        ending.enter_context(stop.at_once(functools.partial(_finish_early, checkpoints, goodput, position.step)))
        compiled = compiler.take()
        rows, steps = compiled.rows, compiled.steps
        processes.log_on_first(
            f"stage {stage.number}  {stage.title}: {steps} steps, {len(rows.examples)} Examples, {rows.dropped}"
        )
        processes.log_on_first(f"  rows {rows.stream.efficiency}")

        # ── Stage: what is computed once, from the parameters with which it begins ────────────────────────────────
        if compiled.compute_signals is not None and not start.stage_step:
            with clock("whiten"):
                state = whiten(mesh, rows, compiled.compute_signals, state)
        use_cached_states(context, compiled, state, checkpoints.base)

        # ── Stage: its steps ──────────────────────────────────────────────────────────────────────────────────────
        with jax.set_mesh(mesh):
            with clock("load"):
                trainable, opt_state, frozen = begin_stage(compiled, state, checkpoints, start)
            del state  # keep one copy: another reference would keep donated buffers alive
            ending.close()
            position, key = start, jax.random.key(config.seed * 10 + stage.number)
            log = StepLog(context, compiled, metrics, start.stage_step)
            stage_profile = profile.stage(stage.number, start.stage_step, compiled.flops)
            # Polled after steps only: a signal that arrives after the last one must not keep the stage from being
            # finished.
            sync = ProcessSync(lambda: stop.requested, clock, config.checkpoint_seconds)
            for batch in clock.iterate("wait", device_batches(compiled, mesh, start.stage_step)):
                stage_profile.begin(trainable)
                with clock("steps"):
                    ids = step_example_ids(rows, position.stage_step)
                    step_key = jax.random.fold_in(key, position.stage_step)
                    trainable, opt_state, values = compiled.step(trainable, opt_state, frozen, batch, step_key)
                    position = Position(position.step + 1, stage.number, position.stage_step + 1)
                    log.add(position, values, ids)
                goodput.record(position.step)
                checkpoints.check_pending()
                with clock("agree"):
                    sync.poll()
                if sync.slow:
                    processes.log_on_first(f"  slow     step {position.step}: {sync.slow}")
                due = sync.save or position.stage_step % config.checkpoint_every == 0
                if sync.stop or (due and position.stage_step < steps):
                    with clock("steps"):
                        log.flush()
                    sync.note_save()
                    with clock("checkpoint"):  # the base is in WORKDIR/base, but while stage 0 trains it
                        saved, saved_opt_state = as_trees(compiled, trainable, opt_state, frozen)
                        saved = saved if stage.trains_base else nnx.filter_state(saved, in_groups(ADAPTED))
                        checkpoints.save(position, saved, saved_opt_state)
                        del saved, saved_opt_state
                if sync.stop:
                    break
            stage_profile.end(trainable)
            with clock("steps"):
                log.flush(last=True)

            # ── Stage: its end ────────────────────────────────────────────────────────────────────────────────────
            if sync.stop:
                break
            state, opt_state = as_trees(compiled, trainable, opt_state, frozen)
            position = Position(position.step, stage.number + 1, 0)
            with clock("checkpoint"):
                if stage.trains_base:
                    state = as_stored(state, abstract)
                    save_base(workdir / "base", nnx.filter_state(state, in_groups(("base",))))
                    checkpoints.base = identify_base(workdir / "base")
                    state = calibrate_new_parameters(state, data.statistics, label_tokens)
                checkpoints.save(position, nnx.filter_state(state, in_groups(ADAPTED)), opt_state)
        with clock("evaluate"):
            validation = evaluate(context, compiled, state)
        metrics.log(position.step, stage.number, validation)
        terms = "  ".join(f"{name.removeprefix('validation_')} {value:.3f}" for name, value in validation.items())
        processes.log_on_first(f"  held out: {terms}")
        if processes.any_process(stop.requested):
            break

    compiler.close()

    # ── Done ──────────────────────────────────────────────────────────────────────────────────────────────────────
    with clock("checkpoint"):
        checkpoints.close()
    metrics.close()
    watchdog.close()
    goodput.record(position.step, "done" if not stages or position.stage > stages[-1].number else "stopped")
    processes.leave()
    stop.close()
    shares = "  ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.shares.items())
    processes.log_on_first(f"compiled {compilations()}")
    processes.log_on_first(f"goodput  {summary(goodput.sessions)}")
    processes.log_on_first(f"done     step {position.step} in {clock.elapsed:.0f} s ({shares})")
    if stop.exit_code:
        print(f"train.py: interrupted after step {position.step}; --resume goes on from there", file=sys.stderr)
    return stop.exit_code


def _finish_early(checkpoints: Checkpoints, goodput: Goodput, step: int) -> None:
    """Complete what a run that is stopped between two stages has begun to write."""
    checkpoints.finish_pending()
    goodput.record(step, "stopped")


def run(argv: list[str]) -> int:
    """Run `main` and return the exit code.

    0, or 130 after Ctrl-C; 2 after a bad input, 74 where the disk refuses writes, 75 after the loss of another process,
    1 after any other error.
    """
    try:
        return main(argv)
    except Exception as error:
        code = _exit_code(error)
        if code != DISK_FULL and jax.distributed.is_initialized() and peers.is_peer_loss(error):
            peers.exit_lost(error)
        if code == 1 and not isinstance(error, FloatingPointError):
            traceback.print_exc()
        else:
            print(f"train.py: {error}", file=sys.stderr)
        return code


def _exit_code(error: Exception) -> int:
    full = isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT)
    if full or isinstance(error, DiskError):
        return DISK_FULL
    return 2 if isinstance(error, (ValueError, OSError)) else 1


if __name__ == "__main__":
    # Everything is written at its end. A plain exit would wait for a compilation under way, and after an error for the
    # other processes, which wait for this one.
    program.finish(run, sys.argv[1:])
