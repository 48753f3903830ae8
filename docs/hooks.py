"""What mkdocs fills in: the help of every command, as the program itself prints it."""

from __future__ import annotations

import argparse
import os
from typing import Any

from fusematte.cli import COMMANDS, build_parser

MARKER = "<!-- the help of every command -->"


def on_page_markdown(markdown: str, **_: Any) -> str:  # noqa: ANN401
    """Called by mkdocs with each page."""
    return markdown.replace(MARKER, helps()) if MARKER in markdown else markdown


def helps() -> str:
    """A section for each command."""
    os.environ["COLUMNS"] = "92"  # of argparse's lines
    return "\n".join(
        f"## fusematte {name}\n\n{what.capitalize()}.\n\n```text\n{_help(name)}\n```\n"
        for name, (_, what) in COMMANDS.items()
    )


def _help(name: str) -> str:
    parser = build_parser([name])
    (commands,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    return str(commands.choices[name].format_help()).strip()
