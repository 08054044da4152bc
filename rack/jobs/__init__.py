"""The jobs of a queue as a shard has them: their records, and the steps from one state to the next."""
