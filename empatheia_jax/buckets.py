"""Few sizes for many lengths: each size is a static shape, and each shape is compiled once."""


def power_of_two(least: int) -> int:
    """The smallest power of two that is at least `least` >= 1."""
    return 1 << (least - 1).bit_length()


def bucket(length: int, least: int, steps: int) -> int:
    """The smallest of `least` x 2^k x (1 + j / steps), j < steps, that is at least `length`.

    Padding is below 1 / steps of the length; `least` is a multiple of `steps`.
    """
    octave = least * power_of_two(max(1, -(-length // least))) // 2 if length > least else least
    step = octave // steps
    return octave + step * max(0, -(-(length - octave) // step))
