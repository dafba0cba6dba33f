"""``python -m edgedsl``."""

from edgedsl.cli import main

main()
