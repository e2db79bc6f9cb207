"""A torch that cannot be imported, and that records every attempt in a file beside it."""

from pathlib import Path

Path(__file__).with_name("imported").touch()
raise ModuleNotFoundError("no torch", name="torch")
