"""Dialogues on disk: the released AvaMERG files, TFDS datasets made from them, and checks of both."""
