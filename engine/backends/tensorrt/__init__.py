"""TensorRT and TensorRT-RTX: the runner, the libraries, the plugin, cached engines."""
