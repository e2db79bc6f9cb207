"""The feature store: outputs of frozen networks, computed once for each utterance."""
