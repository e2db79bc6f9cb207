"""empatheia_jax: a dialogue goes in (words, voice, face); an avatar's empathetic answer comes out."""

__version__ = "0.1.0"
