from support.dreamtalk_torch import DiffusionNet

__all__ = ["DiffusionNet"]
