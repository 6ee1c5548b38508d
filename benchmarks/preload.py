"""What every row would otherwise pay for once: no row imports this module, but asv's forkserver does.

asv imports all modules here when it discovers the suite; its forkserver does so before it forks a process for each
row, so what is loaded here is there in all of them. It must not touch CUDA, which does not survive a fork. Under
spawn a row imports only what it needs.
"""

import contextlib

with contextlib.suppress(ImportError):
    from triton.runtime.cache import triton_key

    triton_key()  # a hash over all of Triton's files, hundreds of megabytes, wanted at the first launch of a process
