"""A CUDA driver without a GPU, on which PyCUDA itself and the tests marked ``gpu`` run."""
