"""Parts of dense_ctx: probes."""
