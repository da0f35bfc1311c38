"""``python -m hubel`` is the command ``hubel``."""

import sys

from hubel.cli import main

sys.exit(main())
