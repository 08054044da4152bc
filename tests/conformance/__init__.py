"""The promises of Rack as bodies of tests, to be subclassed by every engine: Rack's own and those of its users.

``shard_suite.ShardSuite`` is about one shard, at the level of bytes; ``container_suite``, ``set_suite``,
``dict_suite`` and ``views_suite`` are about the containers. All of them seed and read through ``raw``, which knows
the files but shares no code with Rack, so that a bug that writes and reads wrongly in the same way cannot hide.
"""

import pytest

_MODULES = (
    "bench",
    "container_suite",
    "dict_suite",
    "model",
    "raw",
    "scan_suite",
    "set_suite",
    "shard_suite",
    "views_suite",
)
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))
