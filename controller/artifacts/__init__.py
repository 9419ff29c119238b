"""Content-addressed blobs and the transport form of bundles."""
