#!/bin/sh
# Takes a live stream, puts its people over another background, and sends it on:
#
#   examples/rtmp_relay.sh rtmp://127.0.0.1/live/in rtmp://live.example/app/KEY beach.jpg
#
# IN and OUT may also be rtsp or tcp (MPEG-TS), and srt where libav has it.  Either end may go away
# and come back: what is lost is opened again.  To try it without a media server, let ffmpeg be both
# ends:
#
#   ffmpeg -re -i talk.mp4 -c:v libx264 -g 25 -an -f flv -listen 1 rtmp://127.0.0.1:1935/live/in
#   ffmpeg -f flv -listen 1 -i rtmp://127.0.0.1:1936/live/out -c copy out.flv
#   examples/rtmp_relay.sh rtmp://127.0.0.1:1935/live/in rtmp://127.0.0.1:1936/live/out
exec fusematte live --camera "$1" --output "$2" --background "${3:-blur}"
