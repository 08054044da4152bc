"""Set algebra of containers and of anything else: merge joins of keys (and of pairs), shard by shard."""
