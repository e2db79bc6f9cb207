"""The flags that `empatheia respond` and `empatheia evaluate` share: how the LLM is run while it answers."""

import argparse

from empatheia_jax.config import MeshConfig

MESH_AXES = ("data", "fsdp", "tensor")


def add_answering(parser: argparse.ArgumentParser) -> None:
    """Add --quantization, --max-new-tokens and, named as in train.py, --mesh.data, --mesh.fsdp and --mesh.tensor."""
    parser.add_argument(
        "--quantization",
        choices=("none", "int8", "nf4"),
        help="format of the LLM's frozen base; default: the run's own",
    )
    parser.add_argument(
        "--max-new-tokens", type=int, metavar="N", help="most tokens of an answer; default: see docs/inference.md"
    )
    for axis in MESH_AXES:
        parser.add_argument(
            f"--mesh.{axis}",
            type=int,
            metavar="N",
            dest=f"mesh_{axis}",
            help=f"devices along {axis}; with any of these, all devices share the LLM; default: the first has it",
        )


def mesh_of_flags(args: argparse.Namespace) -> MeshConfig | None:
    """Return the mesh that was asked for; None without any of its flags."""
    given = {axis: getattr(args, f"mesh_{axis}") for axis in MESH_AXES}
    given = {axis: size for axis, size in given.items() if size is not None}
    return MeshConfig(**given) if given else None
