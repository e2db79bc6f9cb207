"""DreamTalk (Ma et al. 2023, arXiv:2312.09767) in Flax: appendix D.2.2's talking face, frozen.

A diffusion model samples expression coefficients from speech and a style code, and PIRenderer (Ren et al. 2021,
arXiv:2109.08379) renders them as frames of a portrait. Modules are named as the tensors of the published files.
README.md maps the paper to files.
"""
