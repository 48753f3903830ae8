"""``fusematte serve``: a local web page and an HTTP API.

The browser's camera is matted live over WebRTC; video files are dropped on the page, matted and
downloaded.  Nothing leaves the machine: server and WebRTC listen on 127.0.0.1, and the page loads
nothing from other hosts.
"""

import os

# CPython 3.11 logs a traceback when a connection ends while asyncio sends a file by sendfile(2).
# aiohttp reads this when it is imported.
os.environ.setdefault("AIOHTTP_NOSENDFILE", "1")
