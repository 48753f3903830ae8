"""TensorRT and TensorRT-RTX: the backend, loading of the libraries, the guided-filter plugin."""
