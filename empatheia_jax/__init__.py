"""empatheia_jax: a dialogue goes in and an avatar's empathetic answer comes out, each as words, voice and face."""

__version__ = "0.1.0"
