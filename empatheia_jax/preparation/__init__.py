"""Work done once before training: perform the sample corpus, run the frozen networks over a dataset."""
