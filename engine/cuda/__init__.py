"""NVIDIA GPUs: driver, DLPack, pictures in device memory."""
