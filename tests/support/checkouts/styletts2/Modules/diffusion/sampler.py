class ADPM2Sampler:
    pass


class KarrasSchedule:
    def __init__(self, sigma_min, sigma_max, rho):
        pass


class DiffusionSampler:
    def __init__(self, diffusion, sampler, sigma_schedule, clamp):
        self.diffusion = diffusion

    def __call__(self, **arguments):
        return self.diffusion.owner[0](**arguments)
