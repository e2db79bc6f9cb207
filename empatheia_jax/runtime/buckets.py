"""Sizes that lengths are padded to: a program is compiled once for each size instead of for each length."""


def next_power_of_two(value: int) -> int:
    """Return the smallest power of two that is at least `value`, which is 1 or more."""
    return 1 << (value - 1).bit_length()


def bucket(length: int, least: int, steps: int) -> int:
    """Return the smallest size least * 2^k * (1 + j / steps), with j < steps, that is at least `length`.

    Padding is below 1 / steps of the length.

    Args:
      length: length to be padded.
      least: smallest size, a multiple of `steps`.
      steps: number of sizes from one power of two to the next.
    """
    octave = least * next_power_of_two(max(1, -(-length // least))) // 2 if length > least else least
    step = octave // steps
    return octave + step * max(0, -(-(length - octave) // step))
