"""poc: a container runtime for Python."""
