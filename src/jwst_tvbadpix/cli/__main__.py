"""``python -m jwst_tvbadpix.cli``."""

from . import main

raise SystemExit(main())
