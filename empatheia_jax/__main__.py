"""The `empatheia` command.

sample · check-data · build-data · extract · respond · speak · animate · evaluate · plan · demo
"""

import sys
from collections.abc import Callable

from empatheia_jax import cli


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 2, with one line on stderr, for bad input."""
    argv = sys.argv[1:] if argv is None else argv
    commands: dict[str, Callable[[list[str]], int]] = cli.COMMANDS
    if not argv or argv[0] in ("-h", "--help") or argv[0] not in commands:
        command = argv[0] if argv else None
        print(f"{__doc__}\nusage: empatheia COMMAND --help", file=sys.stderr if command else sys.stdout)
        if command and command not in ("-h", "--help"):
            print(f"empatheia: there is no command {command!r}", file=sys.stderr)
            return 2
        return 0
    try:
        return commands[argv[0]](argv[1:])
    except (ValueError, OSError) as error:
        print(f"empatheia {argv[0]}: {error}", file=sys.stderr)
        return 2


if __name__ == "__main__":
    sys.exit(main())
