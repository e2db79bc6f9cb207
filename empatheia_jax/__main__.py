"""The `empatheia` command.

fetch · sample · check-data · build-data · extract · respond · speak · animate · evaluate · hear · plan · demo
"""

import sys
from collections.abc import Callable

from empatheia_jax.runtime import program

_RESUMABLE = ("fetch", "sample", "extract", "demo")  # commands that go on where they were


def main(argv: list[str] | None = None) -> int:
    """Run a command and return its exit code: 2, with one line on stderr, for bad input.

    Args:
      argv: the command's name and its arguments; None: this process is the command, which ends with it.
    """
    if argv is None:
        _begin(sys.argv[1:2])
        program.finish(main, sys.argv[1:])
    from empatheia_jax import cli  # takes seconds; signals are watched by now

    argv = argv or []
    commands: dict[str, Callable[[list[str]], int]] = cli.COMMANDS
    name = argv[0] if argv else None
    if name is None or name in ("-h", "--help") or name not in commands:
        wrong = name not in (None, "-h", "--help")
        print(f"{__doc__}\nusage: empatheia COMMAND --help", file=sys.stderr if wrong else sys.stdout)
        if wrong:
            print(f"empatheia: there is no command {name!r}", file=sys.stderr)
        return 2 if wrong else 0
    from empatheia_jax.runtime.platforms import check_platforms, explain

    try:
        if not {"-h", "--help"} & set(argv):
            check_platforms()
        return commands[name](argv[1:])
    except (ValueError, OSError) as error:
        print(f"empatheia {name}: {error}", file=sys.stderr)
        return 2
    except RuntimeError as error:  # a network that runs on a device was the first to need it
        if (line := explain(error)) is None:
            raise
        print(f"empatheia {name}: {line}", file=sys.stderr)
        return 2


def _begin(names: list[str]) -> None:
    advice = "nothing half-written is left"
    if set(names) & set(_RESUMABLE):
        advice = "the same command goes on where it was"
    program.begin(" ".join(["empatheia", *names]), advice, survives_hangup=names == ["demo"])  # the demo trains


if __name__ == "__main__":
    main()
