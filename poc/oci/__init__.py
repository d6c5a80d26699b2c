"""The OCI runtime specification: the shape of ``config.json`` and its defaults, not how it is carried out."""
