"""``python -m finery_client.cli``."""

import sys

from finery_client.cli.main import main

sys.exit(main())
