"""``python -m genloom`` and ``torchrun -m genloom``."""

import sys

try:
    from genloom.cli.main import main
except KeyboardInterrupt:
    sys.exit(130)

main()
