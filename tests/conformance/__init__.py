"""The promises of Rack as bodies of tests, to be subclassed by every engine: Rack's own and those of its users.

``shard_suite.ShardSuite`` is about one shard, at the level of bytes; the suites that
``tests/container/test_conformance.py`` lists are about the containers. All of them seed and read through ``raw``,
which knows the files but shares no code with Rack, so that a bug that writes and reads wrongly in the same way cannot
hide.
"""

import pytest

_SUITES = ("atomic", "container", "dict", "life", "made", "scan", "set", "shard", "shard_life", "views")
_MODULES = ("bench", "model", "raw", *(f"{suite}_suite" for suite in _SUITES))
pytest.register_assert_rewrite(*(f"{__name__}.{module}" for module in _MODULES))
