"""The frame path on an NVIDIA GPU: from the decoded picture to the composite in device memory.

NVDEC or an upload -> resize -> engine -> guided filter, foreground, composite -> NVENC or one
download.  ``path.FramePath`` is the work, ``stages.GpuStages`` its place in a job.
"""
