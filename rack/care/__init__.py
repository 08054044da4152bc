"""A store from outside: what is wrong with it, what can be saved of it, what a foreign one holds."""
