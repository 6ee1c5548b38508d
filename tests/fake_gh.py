"""`gh api` for tests: a folder is GitHub. Installed as `gh` on PATH by the fixture of test_ci_scripts.py."""

import json
import os
import re
import sys
from pathlib import Path

PLACE = "repos/{owner}/{repo}/"


def main() -> None:
    words = sys.argv[1:]
    assert words.pop(0) == "api"
    options = {}
    while words and words[0].startswith("--"):
        name = words.pop(0)
        options[name] = True if name == "--paginate" else words.pop(0)
    path = words.pop(0).removeprefix(PLACE)
    if words:
        assert words == ["--input", "-"], words
        options["--input"] = "-"
    assert os.environ.get("GH_TOKEN"), "gh has no token"
    state_file = Path(os.environ["FAKE_GH"], "state.json")
    state = json.loads(state_file.read_text())
    fields = json.loads(sys.stdin.read()) if "--input" in options else {}
    method = str(options.get("--method", "GET"))
    if path.endswith("/zip"):
        sys.stdout.buffer.write(Path(os.environ["FAKE_GH"], path.split("/")[-2] + ".zip").read_bytes())
        return
    answer = handle(state, method, path, fields)
    if method != "GET":
        state["writes"].append([method, path])
        state_file.write_text(json.dumps(state))
    if jq := options.get("--jq"):
        items = answer if jq == ".[]" else answer[re.fullmatch(r"\.(\w+)\[\]", jq)[1]]
        print("\n".join(json.dumps(item) for item in items))
    else:
        print(json.dumps(answer))


def handle(state: dict, method: str, path: str, fields: dict) -> object:
    if match := re.fullmatch(r"issues/(\d+)/comments", path):
        comments = state["comments"].setdefault(match[1], [])
        if method == "GET":
            return comments
        state["next"] += 1
        comments.append({"id": state["next"], "user": {"login": "github-actions[bot]"}, **fields})
        return comments[-1]
    if match := re.fullmatch(r"issues/comments/(\d+)", path):
        (comment,) = [c for group in state["comments"].values() for c in group if c["id"] == int(match[1])]
        comment.update(fields)
        return comment
    if method == "POST" and path == "issues":
        state["next"] += 1
        made = {"number": state["next"], "state": "open", "user": {"login": "github-actions[bot]"}, **fields}
        state["issues"].append(made)
        return made
    if match := re.fullmatch(r"issues/(\d+)", path):
        (issue,) = [issue for issue in state["issues"] if issue["number"] == int(match[1])]
        issue.update(fields)
        return issue
    if path.startswith("issues?state=all&per_page=100&labels=performance%20regression"):
        return state["issues"]
    if method == "POST" and path == "pages/builds" and state.get("pages", True):
        return {"status": "queued"}
    if method == "GET" and path in state["static"]:
        return state["static"][path]
    sys.exit(f"gh: Not Found: {method} {path} (HTTP 404)")


if __name__ == "__main__":
    main()
