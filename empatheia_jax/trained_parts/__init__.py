"""Trained parts that others made and that anybody can fetch: a voice, a small LLM, judges. Their bytes are pinned.

`catalogue` says what there is, `sources` where a file may come from, `fetch` brings it, `home` is where it lies.
"""
