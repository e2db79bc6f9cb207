"""The original torch implementations, run from a user's checkouts through the bridge, behind the same interfaces.

Their code is run, never copied. This package is only imported if a config names the backend `torch`.
"""
