/* libcuda.so.1 and libnvidia-ml.so.1: nothing of their own; they need the stand-in's libcudart. */
