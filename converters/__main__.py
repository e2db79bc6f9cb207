"""Published torch checkpoints to Flax and back; a bad checkpoint is an error message and exit code 2.

python -m converters vicuna|hubert|clip|wav2vec2 --input PATH --output DIR [--dtype D] [--verify]
python -m converters styletts2 --input epochs_2nd_00020.pth [--config config.yml] [--plbert FILE] --output DIR
python -m converters vicuna --input MODEL.gguf --output DIR [--dtype D] [--verify]
python -m converters kokoro --input kokoro-v1_0.pth|kokoro-v1.0.int8.onnx [--voices DIR] --output DIR [--verify]
python -m converters dreamtalk --input denoising_network.pth --renderer renderer.pt [--wav2vec DIR]
                               [--face3d epoch_20.pth] --output DIR
python -m converters export --run DIR --format peft|hf --output DIR [--dtype D]
python -m converters export --weights DIR --output DIR
python -m converters peft --input PEFT_DIR --base CONVERTED_BASE_OR_RUN --output DIR
"""

import argparse
import logging
import os
import sys
from pathlib import Path

from empatheia_jax.runtime import program

if __name__ == "__main__":  # before the imports that take seconds
    program.begin("converters", "the same command goes on where it was")

# A conversion only moves numbers. It leaves accelerators free, and needs none where JAX_PLATFORMS names one.
os.environ["JAX_PLATFORMS"] = "cpu"

from converters.convert import FAMILIES, convert, convert_dreamtalk

DTYPES = ("float32", "bfloat16", "float16")


def main(argv: list[str]) -> int:
    """Run one command."""
    parser = argparse.ArgumentParser(
        prog="python -m converters", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    for family in FAMILIES:
        command = commands.add_parser(family, help=f"a transformers checkpoint of {family} -> weights")
        command.add_argument(
            "--input", type=Path, required=True, help="directory, weights file, shard index, or a .gguf"
        )
        command.add_argument("--output", type=Path, required=True, help="a new folder")
        command.add_argument("--dtype", choices=DTYPES, help="default: each tensor's own; norms stay float32")
        command.add_argument(
            "--sha256", metavar="HEX", help="of the weights file; hashes found beside it are always checked"
        )
        command.add_argument(
            "--verify",
            action="store_true",
            help="then run the original in torch and ours on the same input; an existing output is only verified",
        )
        command.set_defaults(run=_convert)
    command = commands.add_parser("styletts2", help="the published .pth of StyleTTS 2 -> weights")
    command.add_argument("--input", type=Path, required=True, help="for instance epochs_2nd_00020.pth")
    command.add_argument("--config", type=Path, help="its config.yml; default: the one beside it")
    command.add_argument("--plbert", type=Path, help="step_1000000.t7, where the .pth has no PL-BERT")
    command.add_argument("--output", type=Path, required=True, help="a new folder")
    command.add_argument("--sha256", metavar="HEX", help="of the .pth; hashes found beside it are always checked")
    command.set_defaults(run=_convert_styletts2)
    command = commands.add_parser("kokoro", help="Kokoro-82M, as .pth or .onnx -> weights")
    command.add_argument("--input", type=Path, required=True, help="kokoro-v1_0.pth or kokoro-v1.0.int8.onnx")
    command.add_argument("--voices", type=Path, help="folder of NAME.pt or NAME.bin: mean rows to DIR/voices.npz")
    command.add_argument("--output", type=Path, required=True, help="a new folder")
    command.add_argument("--sha256", metavar="HEX", help="of the file; hashes found beside it are always checked")
    command.add_argument(
        "--verify",
        action="store_true",
        help="then run the .onnx in ONNX Runtime and ours on the same input; an existing output is only verified",
    )
    command.set_defaults(run=_convert_kokoro)
    command = commands.add_parser("dreamtalk", help="the published files of DreamTalk -> a folder of weights each")
    command.add_argument("--input", type=Path, required=True, dest="denoiser", help="denoising_network.pth")
    command.add_argument("--renderer", type=Path, required=True, help="renderer.pt")
    command.add_argument("--wav2vec", type=Path, help="directory of wav2vec2-large-xlsr-53-english, its speech encoder")
    command.add_argument("--face3d", type=Path, help="epoch_20.pth, which extracts the style of a video")
    command.add_argument("--output", type=Path, required=True, help="a new folder")
    command.set_defaults(run=_convert_dreamtalk)
    command = commands.add_parser("export", help="a run, or converted weights -> a directory for transformers or PEFT")
    exported = command.add_mutually_exclusive_group(required=True)
    exported.add_argument("--run", type=Path, dest="workdir", metavar="RUN", help="a run of train.py: its tuned LLM")
    exported.add_argument("--weights", type=Path, help="a converted folder: the transformers directory it came from")
    command.add_argument(
        "--format", choices=("peft", "hf"), default="hf", help="the adapter alone, or merged with its base"
    )
    command.add_argument("--output", type=Path, required=True, help="a new folder")
    command.add_argument("--dtype", choices=DTYPES, help="of a merged run; default: that of its base")
    command.set_defaults(run=_export)
    command = commands.add_parser("peft", help="a PEFT adapter directory -> what the config's `adapter` names")
    command.add_argument("--input", type=Path, required=True, help="directory with adapter_config.json")
    command.add_argument("--base", type=Path, required=True, help="its converted base, or a run with a base of its own")
    command.add_argument("--output", type=Path, required=True, help="a new folder")
    command.set_defaults(run=_import)
    args = parser.parse_args(argv)
    _silence_orbax()
    try:
        return args.run(args)
    except (ValueError, OSError) as error:
        print(f"converters {args.command}: {error}", file=sys.stderr)
        return 2


def _silence_orbax() -> None:
    """Hide what Orbax's threads log when a write fails: this program reports the failure once."""
    for name in ("absl", "asyncio"):
        logging.getLogger(name).setLevel(logging.CRITICAL)
    sys.unraisablehook = lambda unraisable: (
        None if str(unraisable.exc_value) == "Event loop is closed" else sys.__unraisablehook__(unraisable)
    )


def _convert(args) -> int:
    if not (args.verify and (args.output / "config.json").exists()):
        _print(args.output, convert(args.command, args.input, args.output, args.dtype, sha256=args.sha256))
    if not args.verify:
        return 0
    from converters.verify import verify

    report = verify(args.command, args.input, args.output)
    print("\n".join(report.lines()))
    return 0 if report.good else 1


def _convert_styletts2(args) -> int:
    extra_files = {"config": args.config, "plbert": args.plbert}
    _print(args.output, convert("styletts2", args.input, args.output, sha256=args.sha256, **extra_files))
    return 0


def _convert_kokoro(args) -> int:
    if not (args.verify and (args.output / "config.json").exists()):
        extra_files = {} if args.voices is None else {"voices": args.voices}
        _print(args.output, convert("kokoro", args.input, args.output, sha256=args.sha256, **extra_files))
    if not args.verify:
        return 0
    from converters.verify_kokoro import verify_kokoro

    report = verify_kokoro(args.input, args.output)
    print("\n".join(report.lines()))
    return 0 if report.good else 1


def _convert_dreamtalk(args) -> int:
    sources = {name: getattr(args, name) for name in ("denoiser", "renderer", "wav2vec", "face3d")}
    for name, counts in convert_dreamtalk(sources, args.output).items():
        _print(args.output / name, counts)
    return 0


def _export(args) -> int:
    from converters.export import export_hf, export_peft, export_weights

    if args.dtype and (args.weights or args.format == "peft"):
        raise ValueError("--dtype is for merged runs; other exports keep the numbers as they are")
    if args.weights:
        counts = export_weights(args.weights, args.output)
    elif args.format == "peft":
        counts = export_peft(args.workdir, args.output)
    else:
        counts = export_hf(args.workdir, args.output, args.dtype)
    _print(args.output, counts)
    return 0


def _import(args) -> int:
    from converters.peft import import_adapter

    _print(args.output, import_adapter(args.input, args.base, args.output))
    return 0


def _print(output: Path, counts: dict[str, int]) -> None:
    print(f"{output}: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))


if __name__ == "__main__":
    program.finish(main, sys.argv[1:])
