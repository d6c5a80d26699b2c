"""An OCI bundle in, a process out. Knows no images, no networks and no command line.

`create` makes the container's process and stops it right before its program; its ``start`` lets it go.
"""
