"""Work done once before training: write the sample corpus, and run the frozen networks over a dataset."""
