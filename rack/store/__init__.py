"""Bytes over N shards, and a store's life: its files, its locks, who has it open."""
