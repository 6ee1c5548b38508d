"""Stands in for a commit's Python in test_compare: speaks the worker's protocol, and fails on command.

The folder it is given holds `plan.json` (cell name -> what happens) and gets `log`, a line for each thing asked.
"""

import json
import os
import sys
import time
from pathlib import Path


def main(arm, folder):
    sys.path.insert(0, os.getcwd())
    from benchmarks.compare import worker

    worker.die_with_parent()
    plan = json.loads((folder / "plan.json").read_text())
    cell = None

    def note(*words):
        with (folder / "log").open("a") as file:
            print(time.monotonic_ns(), os.getpid(), arm, *words, file=file, flush=True)

    for line in sys.stdin:
        request = json.loads(line)
        answer = {}
        if request["do"] == "hello":
            what = plan.get(f"{arm} hello", "")
            once = folder / f"once {arm} hello"
            if what.startswith("crash") and not (what.endswith(" once") and once.exists()):
                once.touch()
                os._exit(1)
            if what == "hang":
                time.sleep(600)
            if what == "gibberish":
                print("Welcome to this machine!", flush=True)
            answer = {"commit": "", "ropekern": "here", "sources": "", "sees_throttling": True}
            answer["versions"] = {"torch": arm}
        elif request["do"] == "prepare":
            cell = request["cell"]
            what = plan.get(f"{arm} {cell['num_tokens']}", "")
            note("prepare", cell["num_tokens"])
            once = folder / f"once {arm} {cell['num_tokens']}"
            if what.endswith(" once"):
                if once.exists():
                    what = ""
                once.touch()
            if what.startswith("crash"):
                print("Segmentation fault, as it were", file=sys.stderr)
                os._exit(139)
            if what.startswith("hang"):
                time.sleep(600)
            if what.startswith("close"):
                os.close(1)
                time.sleep(600)
            if what.startswith("error"):
                answer = {"error": "UnsupportedError: not on this GPU"}
        elif request["do"] == "sample":
            note("begin", cell["num_tokens"])
            time.sleep(0.0005)
            note("end", cell["num_tokens"])
            slow = plan.get("slow", 1.0) if arm == "head" and cell["provider"] != "control" else 1.0
            wobble = 1 + 1e-3 * ((os.getpid() * 7919) % 13 - 6) / 6  # each process draws its own
            answer = {"seconds": plan.get("seconds", 1e-5 * cell["num_tokens"] * slow * wobble)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(sys.argv[1], Path(sys.argv[2]))
