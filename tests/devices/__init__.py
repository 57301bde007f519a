"""Block devices of the host as images: loop devices, which need root and a kernel with them."""
