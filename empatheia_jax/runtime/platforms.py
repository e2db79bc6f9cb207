"""What `JAX_PLATFORMS` asks for, compared with what this machine has: one line instead of JAX's traceback."""

import glob
import os

import jax
from jax._src import xla_bridge

from empatheia_jax.config import ConfigError
from empatheia_jax.runtime.peers import is_peer_loss

_DEVICE_FILES = {  # by which a driver shows that a machine has an accelerator; looking at them takes none
    "cuda": ("/dev/nvidia[0-9]*", "/dev/nvidiactl", "/dev/dxg"),
    "rocm": ("/dev/kfd",),
    "tpu": ("/dev/accel*", "/dev/vfio/[0-9]*"),
}
_DEVICE_FILES["gpu"] = _DEVICE_FILES["cuda"] + _DEVICE_FILES["rocm"]


def check_platforms() -> None:
    """Check that this machine has a platform that `JAX_PLATFORMS` names, without taking an accelerator.

    Raises:
      ConfigError: JAX knows no such platform, or the machine has none of those named.
    """
    names = [name.strip() for name in os.environ.get("JAX_PLATFORMS", "").split(",") if name.strip()]
    unknown = [name for name in names if name not in xla_bridge.known_platforms()]
    if unknown:
        raise ConfigError(_message(f"JAX knows no platform {unknown[0]!r}"))
    if names and not any(_may_be_there(name) for name in names):
        raise ConfigError(_message("this machine has none"))


def check_devices() -> None:
    """Check that JAX can use the devices it was asked for; takes them. Call it after `processes.join`.

    Raises:
      ConfigError: it cannot.
    """
    check_platforms()
    try:
        jax.devices()
    except AssertionError as error:  # JAX's own, where a platform has no device
        raise ConfigError(_message("JAX finds no such device")) from error
    except RuntimeError as error:
        if is_peer_loss(error):
            raise
        raise ConfigError(explain(error) or _message(str(error))) from error


def explain(error: RuntimeError) -> str | None:
    """Return the line for an error with which JAX refuses a platform; None for any other error."""
    text = " ".join(str(error).split())
    return _message(text.partition(" (set JAX_PLATFORMS")[0]) if "nitialize backend" in text else None


def _may_be_there(name: str) -> bool:
    return name not in _DEVICE_FILES or any(glob.glob(pattern) for pattern in _DEVICE_FILES[name])


def _message(reason: str) -> str:
    setting = f"JAX_PLATFORMS={os.environ.get('JAX_PLATFORMS', '')}"
    return f"{setting}: {reason}; set JAX_PLATFORMS=cpu, or unset it and JAX takes the best there is"
