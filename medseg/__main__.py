"""`python -m medseg` is the command `medseg`."""

import sys

from medseg.cli.main import main

sys.exit(main())
