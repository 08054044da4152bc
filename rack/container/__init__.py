"""What PersistentDict and PersistentSet share: their hold on a store, and what is done to keys and values."""
