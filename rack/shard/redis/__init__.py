"""The engine for what speaks Redis's protocol: a hash for each shard, on one server or over a cluster."""
