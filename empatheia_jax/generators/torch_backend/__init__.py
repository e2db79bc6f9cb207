"""The originals in torch, run from a user's own checkouts through the bridge, behind the same two interfaces.

Their code is run, never copied; nothing of this package is imported unless a config asks for `torch`.
"""
