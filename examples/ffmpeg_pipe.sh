#!/bin/sh
# FuseMatte in the middle of a line of ffmpeg, here scaling before and choosing the codec after:
#
#   examples/ffmpeg_pipe.sh talk.mp4 out.mp4 beach.jpg
#
# NUT carries the pictures as they are, with their own timestamps; Y4M (yuv4mpegpipe) works as well.
# The audio comes from IN again, untouched.
ffmpeg -loglevel error -i "$1" -an -vf scale=-2:360 -c:v rawvideo -f nut - |
    fusematte run - - --background "${3:-blur}" --quiet |
    ffmpeg -loglevel error -y -i - -i "$1" -map 0:v -map '1:a?' -c:v libx265 -x265-params log-level=error \
        -tag:v hvc1 -c:a copy "$2"
