"""The LMDB engine: a shard is an LMDB file. :mod:`.shard` puts its parts together."""
