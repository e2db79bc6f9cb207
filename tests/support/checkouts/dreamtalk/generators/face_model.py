from support.dreamtalk_torch import FaceGenerator

__all__ = ["FaceGenerator"]
