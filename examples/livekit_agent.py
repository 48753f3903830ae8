"""A LiveKit agent: every participant's camera is published once more, over another background.

    pip install livekit fusematte
    LIVEKIT_URL=wss://... LIVEKIT_TOKEN=... python examples/livekit_agent.py blur

The token is that of a participant who may subscribe and publish.  The agent's tracks are called
after the participants: a page shows ``matted-ALICE`` in place of Alice's own camera.
"""

import asyncio
import os
import sys
from collections.abc import Callable
from fractions import Fraction

import av
import numpy as np
from livekit import rtc

import fusematte as fm

I420 = rtc.VideoBufferType.I420
MICROSECOND = Fraction(1, 1_000_000)


async def matte(
    camera: rtc.Track, publish: Callable[[rtc.VideoSource], object], background: str
) -> None:
    """Sends a camera's matted frames to a source of the same size until the camera ends.

    publish: called once with that source.
    """
    loop, source = asyncio.get_running_loop(), None

    def send(result: fm.Result) -> None:
        """In the session's thread."""
        picture = result.to_video_frame()
        frame = rtc.VideoFrame(picture.width, picture.height, I420, picture.to_ndarray().tobytes())
        when = int(picture.pts * picture.time_base / MICROSECOND)
        loop.call_soon_threadsafe(lambda: source.capture_frame(frame, timestamp_us=when))

    session = await asyncio.to_thread(fm.Session, background, budget_ms=33, on_result=send)
    stream = rtc.VideoStream(camera, format=I420, capacity=1)  # newer frames replace older ones
    try:
        async for event in stream:
            frame = event.frame
            if source is None:
                source = rtc.VideoSource(frame.width, frame.height)
                publish(source)
            planes = np.frombuffer(frame.data, np.uint8).reshape(-1, frame.width)
            picture = av.VideoFrame.from_ndarray(planes, format="yuv420p")
            picture.pts, picture.time_base = event.timestamp_us, MICROSECOND
            session.push(picture)
    finally:
        await stream.aclose()
        await asyncio.to_thread(session.close)


async def main(url: str, token: str, background: str) -> None:
    room, tasks = rtc.Room(), set()

    @room.on("track_subscribed")
    def begin(track: rtc.Track, _: object, participant: rtc.RemoteParticipant) -> None:
        if track.kind != rtc.TrackKind.KIND_VIDEO:
            return

        def publish(source: rtc.VideoSource) -> None:
            name = f"matted-{participant.identity}"
            made = rtc.LocalVideoTrack.create_video_track(name, source)
            tasks.add(asyncio.ensure_future(room.local_participant.publish_track(made)))

        tasks.add(asyncio.create_task(matte(track, publish, background)))

    await room.connect(url, token)
    await asyncio.Event().wait()


if __name__ == "__main__":
    asyncio.run(main(os.environ["LIVEKIT_URL"], os.environ["LIVEKIT_TOKEN"], sys.argv[1]))
