"""A small RTSP server, to be started and killed by tests: ``python rtsp_server.py PORT``.

It plays a moving test picture, 25 a second, as H.264 in RTP over the connection itself (RFC 2326,
RFC 6184 with one NAL unit to a packet).
"""

from __future__ import annotations

import re
import socketserver
import struct
import sys
import time
from collections.abc import Iterator
from fractions import Fraction

import av
from tests.helpers import picture

WIDTH, HEIGHT, RATE = 64, 48, 25
TYPE = 96
"""RTP's number for the stream."""
SDP = (
    "v=0\r\no=- 0 0 IN IP4 127.0.0.1\r\ns=test\r\nc=IN IP4 0.0.0.0\r\nt=0 0\r\n"
    f"m=video 0 RTP/AVP {TYPE}\r\na=rtpmap:{TYPE} H264/90000\r\n"
    f"a=fmtp:{TYPE} packetization-mode=1\r\na=control:track\r\n"
)


def pictures() -> Iterator[list[bytes]]:
    """The NAL units of each picture, in their own time; none is larger than a packet."""
    context = av.CodecContext.create("libx264", "w")
    assert isinstance(context, av.VideoCodecContext)
    context.width, context.height, context.pix_fmt = WIDTH, HEIGHT, "yuv420p"
    context.time_base, context.gop_size = Fraction(1, RATE), RATE
    context.options = {"tune": "zerolatency", "preset": "ultrafast", "slice-max-size": "1200"}
    begun, count = time.monotonic(), 0
    while True:
        time.sleep(max(0.0, begun + count / RATE - time.monotonic()))
        frame = av.VideoFrame.from_ndarray(picture(WIDTH, HEIGHT, count), "rgb24")
        frame = frame.reformat(format="yuv420p")
        frame.pts, count = count, count + 1
        stream = b"".join(bytes(packet) for packet in context.encode(frame))
        yield [unit for unit in re.split(b"\0\0\0?\1", stream) if unit]


class Connection(socketserver.StreamRequestHandler):
    """Answers requests until one of them is PLAY."""

    def handle(self) -> None:
        while request := self._request():
            method, number = request
            body = SDP if method == "DESCRIBE" else ""
            head = f"RTSP/1.0 200 OK\r\nCSeq: {number}\r\nSession: 1\r\n"
            if method == "SETUP":
                head += "Transport: RTP/AVP/TCP;unicast;interleaved=0-1\r\n"
            if body:
                head += f"Content-Type: application/sdp\r\nContent-Length: {len(body)}\r\n"
            self.wfile.write(f"{head}\r\n{body}".encode())
            if method == "PLAY":
                self._play()

    def _request(self) -> tuple[str, str] | None:
        lines = list(iter(lambda: self.rfile.readline().decode().strip(), ""))
        numbers = [line.split()[1] for line in lines if line.startswith("CSeq")]
        return (lines[0].split()[0], numbers[0]) if numbers else None

    def _play(self) -> None:
        sequence = 0
        for index, units in enumerate(pictures()):
            for unit in units:
                marker = TYPE | (0x80 if unit is units[-1] else 0)
                header = struct.pack(">BBHII", 0x80, marker, sequence, index * 90000 // RATE, 1)
                packet = header + unit
                self.wfile.write(struct.pack(">cBH", b"$", 0, len(packet)) + packet)
                sequence = (sequence + 1) & 0xFFFF


def main() -> None:
    """Serves until it is killed."""
    socketserver.ThreadingTCPServer.allow_reuse_address = True
    with socketserver.ThreadingTCPServer(("127.0.0.1", int(sys.argv[1])), Connection) as server:
        server.serve_forever()


if __name__ == "__main__":
    main()
