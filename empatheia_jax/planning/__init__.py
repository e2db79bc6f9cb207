"""What a run will cost, from shapes alone: FLOPs, bytes, and steps compiled for machines that are not here."""
