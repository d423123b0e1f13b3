"""Parts of dense_ctx: dip."""
