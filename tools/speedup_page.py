"""asv plugin: the Speedup page, which the published site opens with, and two corrections of asv's own pages.

The page is written by hand in tools/site/ and loads its numbers as a script, so that it also works from a folder
without a server. Its charts are drawn by plotly.js as the Python package plotly ships it. Like asv's, these files are
copied anew at each publishing; tools/offline_site.py then checks that the site needs no other host.
"""

import importlib.metadata
import json
import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from asv.publishing import OutputPublisher
from asv.util import UserError

from tools.speedup_data import build, machines_with_numbers
from tools.stored_results import read_machines

SOURCES: Final = Path(__file__).resolve().parent / "site"
CHARTS: Final = "plotly.min.js"

# asv's start page is the grid of benchmarks; its address #/ still leads there.
START: Final = '<script>if (!location.hash) { location.replace("speedup.html"); }</script>'
NAV: Final = '<li><a href="speedup.html">Speedup</a></li>'
SCRIPTS: Final = '<script src="asv-machines.js"></script><script src="asv-pages.js"></script>'

# Page or script of asv's -> (what stands there once, what takes its place).
CHANGES: Final = {
    "index.html": (
        ("<head>", f"<head>\n    {START}"),
        ('<li id="nav-li-" class="active">', f'{NAV}\n        <li id="nav-li-" class="active">'),
        ('src="asv_ui.js">\n    </script>', f'src="asv_ui.js">\n    </script>\n    {SCRIPTS}'),
    ),
    # The commits to choose from when the x axis is a parameter: as text, 9 comes after 10.
    "graphdisplay.js": (("revisions.sort();", "revisions.sort(function (a, b) { return a - b; });"),),
}


def publish(
    site: Path, results: Path, benchmarks: Mapping[str, Any], commits: Mapping[str, str], published: set[str]
) -> None:
    """Add the page to a site that asv has just laid down.

    Args:
        site: the folder of the site.
        results: asv's folder of results.
        benchmarks: benchmarks.json.
        commits: hash -> subject, in the order of history.
        published: hashes of the commits on a branch that asv draws.

    Raises:
        UserError: a result file is not whole, plotly is not installed, or asv's pages are not those of 0.6.6.
    """
    try:
        machines = read_machines(results)
    except ValueError as error:
        raise UserError(str(error)) from error
    for source in sorted(SOURCES.iterdir()):
        (site / source.name).write_bytes(source.read_bytes())
    write_script(site / "speedup-data.js", "SPEEDUP_DATA", build(machines, benchmarks, commits, published))
    write_script(site / "asv-machines.js", "MACHINES_WITH_NUMBERS", machines_with_numbers(machines))
    copy_charts(site / "assets")
    change_asv_pages(site)


def write_script(path: Path, name: str, value: object) -> None:
    """JSON as a script: a page that was opened as a file may load that, but not fetch JSON."""
    # "//" would look like the address of another host to tools/offline_site.py, say in a commit's subject.
    text = json.dumps(value, separators=(",", ":"), allow_nan=False).replace("/", "\\/")
    path.write_text(f"window.{name} = {text};\n", encoding="utf-8")


def copy_charts(assets: Path) -> None:
    """plotly.js and its licence, from the installed package plotly."""
    try:
        files = importlib.metadata.files("plotly") or []
    except importlib.metadata.PackageNotFoundError:
        files = []
    found = [file for file in files if str(file) == f"plotly/package_data/{CHARTS}"]
    licences = [file for file in files if re.search(r"\.dist-info/(licenses/)?LICENSE", str(file))]
    if not found or not licences:
        raise UserError("the Speedup page draws with plotly.js: pip install plotly, as the extra asv does")
    assets.mkdir(exist_ok=True)
    (assets / CHARTS).write_bytes(found[0].read_binary())
    (assets / "LICENSE-plotly.txt").write_bytes(licences[0].read_binary())


def change_asv_pages(site: Path) -> None:
    """Make the Speedup page the first of asv's, and asv's pages sort numbers as numbers."""
    for name, changes in CHANGES.items():
        text = (site / name).read_text(encoding="utf-8")
        for old, new in changes:
            if text.count(old) != 1:
                raise UserError(f"{site / name} is not as tools/speedup_page.py knows it (another asv version?): {old}")
            text = text.replace(old, new)
        (site / name).write_text(text, encoding="utf-8")


def subjects(folder: Path, hashes: list[str]) -> dict[str, str]:
    """Hash -> first line of the commit's message, in the order given.

    Raises:
        UserError: git does not know a commit.
    """
    if not hashes:  # of which git would make HEAD
        return {}
    command = ["git", "-C", str(folder), "log", "--no-walk=unsorted", "--format=%H %s", "--stdin"]
    done = subprocess.run(command, input="\n".join(hashes), capture_output=True, text=True, check=False)
    if done.returncode:
        raise UserError(f"git has no subjects of the measured commits: {done.stderr.strip()}")
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())


class SpeedupPage(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Runs after asv's own publishers and before OfflineSite, which checks what this one wrote."""

    name = "speedup"
    button_label = "Speedup"
    description = "Latency, speedup and share of the roofline, commit by commit"
    order = 4

    @classmethod
    def publish(cls, conf: Any, repo: Any, benchmarks: Any, graphs: Any, revisions: Mapping[str, int]) -> None:  # noqa: ARG003
        """asv's hook; `revisions` are the commits with results and tags, each with its place in history."""
        hashes = sorted(revisions, key=lambda commit: revisions[commit])
        # repo._path: the checkout, or asv's own clone where the configuration names another host.
        commits = subjects(Path(repo._path), hashes)
        published = {commit for branch in conf.branches for commit in repo.get_branch_commits(branch)}
        publish(Path(conf.html_dir), Path(conf.results_dir), benchmarks, commits, published)
