"""One file a stage; each turns parent artifacts into an artifact."""
