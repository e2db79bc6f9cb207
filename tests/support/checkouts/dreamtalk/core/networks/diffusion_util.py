def VarianceSchedule(**arguments):
    return arguments


def NoisePredictor(cfg):
    return None
