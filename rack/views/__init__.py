"""What a container shows of itself: keys, values and items of a dict, and the shards of either."""
