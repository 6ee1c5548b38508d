"""Stands in for a commit's Python in test_shards: the worker's own loop, forks and all, round cells that do as planned.

The folder it is given holds `plan.json` ("COMMIT TOKENS" -> what happens) and gets `log`, a line for each thing done.
"""

import json
import os
import resource
import signal
import sys
import time
from pathlib import Path


def main(commit, folder):
    sys.path.insert(0, os.getcwd())
    from benchmarks.compare import worker

    most = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
    resource.setrlimit(resource.RLIMIT_FSIZE, (most, most))  # the disk that a test calls full is the shard's, not ours
    plan = json.loads((folder / "plan.json").read_text())

    class Stub:
        def note(self, *words):
            with (folder / "log").open("a") as file:
                print(time.monotonic_ns(), os.getpid(), commit, *words, file=file, flush=True)

        def hello(self, request):
            self.note("hello", plan.get(commit, "well"))
            self.process = os.getpid()
            if plan.get(commit) == "broken":
                raise ImportError("cannot import name 'apply_rope_'")
            return {
                "commit": plan.get(f"commit {commit}", ""),
                "ropekern": "here",
                "sources": plan.get(f"sources {commit}", commit),
                "versions": {"torch": "1"},
                "can_fork": bool(plan.get("forks", True)),
            }

        def device(self, _):
            if plan.get("forks") == "no GPU" and os.getpid() != self.process:
                raise RuntimeError("Cannot re-initialize CUDA in forked subprocess")
            return plan["devices"][os.environ.get("CUDA_VISIBLE_DEVICES", "")]

        def prepare(self, request):
            self.tokens = request["cell"]["num_tokens"]
            self.note("prepare", self.tokens)
            time.sleep(plan.get("seconds", 0))
            what = plan.get(f"{commit} {self.tokens}", "")
            if what == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            if what == "hang":
                time.sleep(600)
            if what:
                name, _, text = what.partition(": ")
                raise type(name, (Exception,), {})(text)
            return {}

        def sample(self, _):
            self.note("sample", self.tokens)
            return {"seconds": 1e-5 * self.tokens}

        def release(self, _):
            return {}

    worker.Worker = Stub
    return worker.main()


if __name__ == "__main__":
    letter, place = sys.argv[1], Path(sys.argv[2])
    del sys.argv[1:-1]  # what is left is what the worker is given
    raise SystemExit(main(letter, place))
