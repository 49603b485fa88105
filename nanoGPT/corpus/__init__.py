"""Text to shards: sources, tokenisation, splits, duplicates and evaluation sets."""
