from types import SimpleNamespace


def get_cfg_defaults():
    schedule = SimpleNamespace(NUM_STEPS=1000, BETA_1=1e-4, BETA_T=0.02, MODE="linear")
    return SimpleNamespace(DIFFUSION=SimpleNamespace(SCHEDULE=schedule))
