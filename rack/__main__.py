"""``python -m rack`` is the ``rack`` command."""

from __future__ import annotations

import sys

from rack.cli import main

if __name__ == "__main__":
    sys.exit(main())
