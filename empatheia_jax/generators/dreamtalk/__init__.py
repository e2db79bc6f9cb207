"""DreamTalk (Ma et al. 2023, arXiv:2312.09767) in Flax: appendix D.2.2's talking face, frozen.

From speech and a style code a diffusion model draws expression coefficients, which PIRenderer (Ren et al. 2021,
arXiv:2109.08379) turns into pictures of a portrait. Modules bear the names of the published files' tensors.
"""
