"""The SQLite engine: a shard is an SQLite database. :mod:`.shard` puts its parts together."""
