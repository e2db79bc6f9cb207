"""The whole model of Figure 3, and what its parts share: layers, initial values, the sharding table."""
