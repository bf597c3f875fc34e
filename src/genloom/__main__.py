"""``python -m genloom`` and ``torchrun -m genloom``."""

from genloom.cli.main import main

main()
