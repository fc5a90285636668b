"""``python -m jwst_tvbadpix.cli``."""

from . import main

# A process that `prove` starts imports this file too, and must not run the command again.
if __name__ == "__main__":
    raise SystemExit(main())
