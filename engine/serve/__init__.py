"""``fusematte serve``: a page on this machine that shows the engine at work.

The browser's camera comes by WebRTC and goes back over another background; video files are dropped
on the page, matted and downloaded.  Nothing leaves the machine: the server listens on 127.0.0.1,
WebRTC as well, and the page loads nothing from anywhere else.
"""
