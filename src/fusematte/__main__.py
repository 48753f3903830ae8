"""``python -m fusematte``."""

from fusematte.cli import entry

if __name__ == "__main__":
    entry()
