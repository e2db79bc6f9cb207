"""`python -m converters FAMILY --input PATH --output DIR`; a bad checkpoint is an error message and exit code 2."""

import argparse
import sys
from pathlib import Path

from converters.convert import FAMILIES, convert


def main(argv: list[str]) -> int:
    """Convert one checkpoint."""
    parser = argparse.ArgumentParser(prog="python -m converters", description=__doc__)
    parser.add_argument("family", choices=sorted(FAMILIES))
    parser.add_argument("--input", type=Path, required=True, help="transformers directory, weights file or shard index")
    parser.add_argument("--output", type=Path, required=True, help="a new folder")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="norms stay float32")
    args = parser.parse_args(argv)
    try:
        counts = convert(args.family, args.input, args.output, args.dtype)
    except (ValueError, OSError) as error:
        print(f"converters {args.family}: {error}", file=sys.stderr)
        return 2
    print(f"{args.output}: " + ", ".join(f"{value:,} {name.replace('_', ' ')}" for name, value in counts.items()))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
