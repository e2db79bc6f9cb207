"""The `empatheia` command.

sample · check-data · build-data · extract · respond · speak · animate · evaluate · plan · demo
"""

import sys
from collections.abc import Callable

from empatheia_jax import cli


def main(argv: list[str] | None = None) -> int:
    """Run a command; a bad input is one line on stderr and exit code 2."""
    argv = sys.argv[1:] if argv is None else argv
    commands: dict[str, Callable[[list[str]], int]] = cli.COMMANDS
    if not argv or argv[0] in ("-h", "--help") or argv[0] not in commands:
        asked = argv[0] if argv else None
        print(__doc__ + "\nusage: empatheia COMMAND --help", file=sys.stderr if asked else sys.stdout)
        if asked and asked not in ("-h", "--help"):
            print(f"empatheia: there is no command {asked!r}", file=sys.stderr)
            return 2
        return 0
    try:
        return commands[argv[0]](argv[1:])
    except (ValueError, OSError) as error:
        print(f"empatheia {argv[0]}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
