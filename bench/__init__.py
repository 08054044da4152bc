"""Rack side by side with what people use today: ``python -m bench``.

Every contestant does the same seeded work in every round, in turn, on a store of its own, so that a slow minute of the
machine is slow for all. What is compared is the ratio within a round; what is reported is the median of the ratios.
"""
