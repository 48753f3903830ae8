#!/bin/sh
# A matted camera for OBS, a browser or any other program that takes a camera:
#
#   examples/obs_camera.sh 0 beach.jpg
#
# Linux: install v4l2loopback (Debian: v4l2loopback-dkms) and load it once:
#
#   sudo modprobe v4l2loopback exclusive_caps=1 card_label=FuseMatte
#
# then add a "Video Capture Device (V4L2)" in OBS and choose FuseMatte.  macOS and Windows: install
# OBS and start and stop its virtual camera once; other programs then see FuseMatte under the name
# "OBS Virtual Camera".  Needs pip install 'fusematte[live]'.
exec fusematte live --camera "${1:-0}" --background "${2:-blur}" --virtual-camera
