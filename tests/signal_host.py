"""A process that forks one child for each case of tests/test_signals.py: the imports are paid once.

Reads JSON cases from standard input: {"argv", "signal", "delay", "log"}; writes their exit statuses. A child runs
`dense_ctx.cli.main` with a backbone and a reader of images that take their time, and is sent the signal `delay` seconds
after the first image was read or encoded.
"""

import json
import os
import sys
import time

import dense_ctx.images
from dense_ctx import cli
from dense_ctx.persistence import pixels

AT_ONCE = 10_000


def slowed(function, seconds, ready):
    def slow(*args, **kwargs):
        os.write(ready, b".")
        end = time.monotonic() + seconds  # a signal may interrupt a sleep
        while time.monotonic() < end:
            time.sleep(0.005)
        return function(*args, **kwargs)

    return slow


def child(case, ready):
    with open(case["log"], "w") as log:
        os.dup2(log.fileno(), 1)
        os.dup2(log.fileno(), 2)
    os.setpgid(0, 0)
    from dense_ctx_backbones.rgb_xy import RgbXy

    if case["signal"]:
        RgbXy.forward = slowed(RgbXy.forward, 0.03, ready)
        for reader in (dense_ctx.images, pixels):  # of images and of masks
            reader.open_image = slowed(reader.open_image, 0.01, ready)
    status = cli.main(case["argv"])
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def run(case):
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(read)
            child(case, write)
        except BaseException:
            import traceback

            traceback.print_exc()
            sys.stderr.flush()
        os._exit(99)
    os.close(write)
    if case["signal"]:
        os.read(read, 1)
        time.sleep(case["delay"])
        os.kill(pid, case["signal"])
    # the pipe is read to its end, or the child would wait for room in it
    while os.read(read, AT_ONCE):
        pass
    os.close(read)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


if __name__ == "__main__":
    import timm  # noqa: F401
    import torch

    torch.set_num_threads(1)
    print("STATUS" + json.dumps([run(case) for case in json.load(sys.stdin)]))
