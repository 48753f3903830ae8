"""One NVIDIA GPU: the driver, DLPack, pictures in device memory."""
