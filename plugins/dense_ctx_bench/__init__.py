"""Benchmark grid: train and score every backbone x head x task x seed; summarise as a table."""

from dense_ctx.hookspecs import Register, hookimpl


@hookimpl
def register_parts(register: Register) -> None:
    """Register the command."""
    register("command", "bench", "dense_ctx_bench.command:BenchCommand")
