"""The streaming runtime: decode, matte, refine, composite, encode.  Never imports torch."""

import os

# Between its tasks a thread of OpenCV's would keep a processor busy that codecs have work for.
# Read when OpenCV is loaded.
os.environ.setdefault("OPENCV_THREAD_POOL_ACTIVE_WAIT_WORKER", "0")
