"""``python -m fusematte``."""

import sys

from fusematte.cli import main

if __name__ == "__main__":
    sys.exit(main())
