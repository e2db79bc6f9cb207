"""Import `train.py`, write a metric for TensorBoard, and check which packages that imports: ... FOLDER."""

import importlib
import importlib.util
import sys
from pathlib import Path

from empatheia_jax.training.metrics import Metrics

importlib.import_module("train")
metrics = Metrics(Path(sys.argv[1]), None)
metrics.log(1, 0, {"loss": 1.0})
metrics.close()
imported = [name for name in ("torch", "tensorflow", "av", "cv2") if name in sys.modules]
assert not imported, imported
if importlib.util.find_spec("torch"):
    import torch

    torch.zeros(1)
