"""Train Empatheia: a run from top to bottom.

python train.py configs/tiny.py --workdir runs/tiny [--stages 0,1,2,3,4] [--resume] [--profile] [--data.path DIR ...]
"""

import argparse
import contextlib
import errno
import os
import sys
import traceback
from pathlib import Path

import jax

from empatheia_jax.checkpoints.manifest import set_aside_damaged
from empatheia_jax.checkpoints.named_arrays import DiskError
from empatheia_jax.checkpoints.runs import Checkpoints, Position
from empatheia_jax.config.load import load_config
from empatheia_jax.data.prompts.dialogue import first_label_tokens
from empatheia_jax.model import sharding
from empatheia_jax.monitoring.clock import Clock
from empatheia_jax.monitoring.goodput import Goodput, summary
from empatheia_jax.monitoring.stop import Stop
from empatheia_jax.monitoring.watchdog import STALL, Watchdog
from empatheia_jax.profiling.capture import Profile
from empatheia_jax.runtime import peers, processes
from empatheia_jax.runtime.compile_cache import use_cache
from empatheia_jax.runtime.compile_report import compilations
from empatheia_jax.runtime.machine import keep_memory
from empatheia_jax.training.compilation import StageCompiler
from empatheia_jax.training.data import load_data
from empatheia_jax.training.loop import (
    Run,
    abstract_model,
    check_workdir,
    describe,
    evaluate,
    has_base,
    initialise,
    is_complete,
    restore,
    run_stage,
    save_config,
)
from empatheia_jax.training.metrics import Metrics, NoMetrics
from empatheia_jax.training.stages import stage

DISK_FULL = 74  # EX_IOERR of sysexits.h: to be started again once there is space


def main(argv: list[str]) -> int:
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
    overrides += ["--data.on-error", args.on_error] if args.on_error else []
    profile = Profile(None if args.profile is None else args.profile or args.workdir / "profile", args.profile_steps)
    processes.join(args.distributed, args.heartbeat)
    clock = Clock()
    watchdog = Watchdog(clock, args.stall)

    # ── Config ────────────────────────────────────────────────────────────────────────────────────────────────────
    config = load_config(args.config, overrides)
    stages = [stage(int(number), config) for number in args.stages.split(",")]
    if config.base != "scratch":
        stages = [s for s in stages if s.number != 0]  # a converted base needs no stage 0
    if not config.modalities:
        stages = [s for s in stages if s.number <= 1]  # words only: no latents to train
    check_workdir(args.workdir, config, args.resume, stages)

    # ── Mesh ──────────────────────────────────────────────────────────────────────────────────────────────────────
    mesh = sharding.make_mesh(config.mesh)
    processes.log_on_first(f"mesh     {dict(mesh.shape)} on {jax.devices()[0].device_kind}")
    if jax.default_backend() == "cpu":
        keep_memory()
    processes.log_on_first(f"cache    of compiled programs: {use_cache() or 'off'}")

    # ── Data ──────────────────────────────────────────────────────────────────────────────────────────────────────
    with clock("data"):
        data = load_data(args.workdir, config)
    save_config(args.workdir, config)

    # ── Model (abstract): shapes and shardings, nothing allocated ─────────────────────────────────────────────────
    with clock("load"):
        graphdef, abstract = abstract_model(config, data.widths, mesh)
    processes.log_on_first(f"model    {describe(abstract)}")

    # ── Load, sharded: what a checkpoint holds is read onto its devices, the rest is drawn there ──────────────────
    folder = args.workdir / "checkpoints"
    if args.resume:
        with clock("load"):
            processes.run_on_first("checkpoints", lambda: set_aside_damaged(folder))
    checkpoints = Checkpoints(folder, config.checkpoints_kept, config.checkpoints_kept_every)
    position = checkpoints.latest() if args.resume else None
    with clock("load"):
        label_tokens = first_label_tokens(data.tokenizer)
        first = stages[0].number if stages else 0
        draw_base = not has_base(config, position, first)
        state = abstract if is_complete(position) else initialise(config, data.widths, abstract, base=draw_base)
        state = restore(
            args.workdir,
            config,
            checkpoints,
            position,
            state=state,
            statistics=data.statistics,
            label_tokens=label_tokens,
            first_stage=first,
        )
    resume_step = position.step if position else (0 if args.resume else None)
    metrics = Metrics(args.workdir, resume_step) if processes.is_first() else NoMetrics()
    goodput = Goodput(args.workdir, clock, resume_step or 0, writes=processes.is_first())
    run = Run(args.workdir, config, mesh, data, checkpoints, metrics, clock, goodput, Stop(), profile)
    position = position or Position(0, stages[0].number, 0)
    stages = [s for s in stages if s.number >= position.stage]  # the others are finished

    # ── Stages ────────────────────────────────────────────────────────────────────────────────────────────────────
    compiler = StageCompiler(run, stages, graphdef, abstract)
    for current in stages:
        start = position if position.stage == current.number else Position(position.step, current.number, 0)
        compiled = compiler.take()
        state, position = run_stage(run, compiled, state, start)
        if position.stage == current.number:
            break  # stopped inside the stage
        with clock("evaluate"):
            validation = evaluate(run, compiled, state)
        metrics.log(position.step, current.number, validation)
        terms = "  ".join(f"{name.removeprefix('validation_')} {value:.3f}" for name, value in validation.items())
        processes.log_on_first(f"  held out: {terms}")
        if processes.any_process(run.stop.requested):
            break

    compiler.close()

    # ── Done ──────────────────────────────────────────────────────────────────────────────────────────────────────
    with clock("checkpoint"):
        checkpoints.close()
    metrics.close()
    watchdog.close()
    goodput.record(position.step, "done" if not stages or position.stage > stages[-1].number else "stopped")
    processes.leave()
    shares = "  ".join(f"{name} {seconds:.0f} s" for name, seconds in clock.shares.items())
    processes.log_on_first(f"compiled {compilations()}")
    processes.log_on_first(f"goodput  {summary(goodput.sessions)}")
    processes.log_on_first(f"done     step {position.step} in {clock.elapsed:.0f} s ({shares})")
    return 0


def run(argv: list[str]) -> int:
    """Run `main` and return the exit code.

    2 after a bad input, 74 where the disk refuses writes, 75 after the loss of another process, 130 after a second
    Ctrl-C, 1 after any other error. Output to a closed pipe is no error.
    """
    try:
        return main(argv)
    except KeyboardInterrupt:
        return 130
    except Exception as error:
        code = _exit_code(error)
        if code != DISK_FULL and jax.distributed.is_initialized() and peers.is_peer_loss(error):
            peers.exit_lost(error)
        with contextlib.suppress(OSError):
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
    exit_code = run(sys.argv[1:])
    with contextlib.suppress(OSError):
        sys.stdout.flush()
        sys.stderr.flush()
    # Everything is written. A plain exit would wait for a compilation under way, and after an error for the other
    # processes, which wait for this one.
    os._exit(exit_code)
