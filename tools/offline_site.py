"""asv plugin: the published site loads nothing from other hosts.

The pages of asv 0.6.6 ask other hosts for jQuery, flot, Bootstrap and more, and turn into an error page offline.
No set of ordinary packages on PyPI carries them all, but asv 0.5.1 does: the last release that shipped the files
itself, for pages that still call them in the same way. It cannot share an environment with the asv that runs, so
it is installed into a folder of its own (INSTALL) and is never imported.

Publishing starts from a fresh copy of asv's pages each time; this plugin then rewrites that copy.
"""

import re
import sys
from pathlib import Path
from typing import Any, Final

from asv.publishing import OutputPublisher
from asv.util import UserError

RELEASE: Final = Path(sys.prefix, "share", "asv-0.5.1")
INSTALL: Final = f'"{sys.executable}" -m pip install --no-deps --target "{RELEASE}" asv==0.5.1'

# Whole addresses, version included: when asv asks for another version, someone has to look at it.
ASSETS: Final = {
    "https://code.jquery.com/jquery-3.3.1.min.js": "jquery-3.3.1.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.min.js": "jquery.flot-0.8.3.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.time.min.js": "jquery.flot-0.8.3.time.min.js",
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.selection.min.js": (
        "jquery.flot-0.8.3.selection.min.js"
    ),
    "https://cdnjs.cloudflare.com/ajax/libs/flot/0.8.3/jquery.flot.categories.min.js": (
        "jquery.flot-0.8.3.categories.min.js"
    ),
    # asv 0.5.1 carries its own patched copy; with the one asked for, a graph over a text axis shows no bars.
    "https://cdn.jsdelivr.net/npm/flot-orderbars@1.0.0/js/jquery.flot.orderBars.js": "jquery.flot.orderBars.js",
    "https://cdnjs.cloudflare.com/ajax/libs/stupidtable/1.0.1/stupidtable.min.js": "stupidtable.js",
    "https://cdnjs.cloudflare.com/ajax/libs/blueimp-md5/2.19.0/js/md5.min.js": "md5.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/js/bootstrap.min.js": "bootstrap-3.1.0.min.js",
    "https://cdn.jsdelivr.net/npm/bootstrap@3.1.1/dist/css/bootstrap.min.css": "bootstrap-3.1.0.min.css",
}

OUTSIDE: Final = re.compile(r"(?:https?:)?//")
TAG: Final = re.compile(r"<(?:script|link)\b[^>]*>")
ADDRESS: Final = re.compile(r"""\b(?:src|href)\s*=\s*["']?([^"'\s>]+)""")
# integrity names the bytes of another build of the same library; crossorigin and referrerpolicy are for other hosts.
OTHER_HOST_ATTRIBUTES: Final = re.compile(r"""\s(?:integrity|crossorigin|referrerpolicy)="[^"]*\"""")
# A reader follows these, the browser does not load them.
FOLLOWED: Final = re.compile(r"""<a\b[^>]*>|<link\b[^>]*\brel="alternate"[^>]*>|<!--.*?-->""", re.DOTALL)
CSS_LOAD: Final = re.compile(r"""(?:\burl\(\s*|@import\s+)["']?([^"')\s;]+)""")
CSS_COMMENT: Final = re.compile(r"/\*.*?\*/", re.DOTALL)
FONT_FACE: Final = re.compile(r"@font-face\s*\{[^}]*\}")
QUOTED_OUTSIDE: Final = re.compile(r"""["'`]((?:https?:)?//\w[^"'`\s]*)""")

# Libraries that spell out other hosts (plotly.js: those of its maps) for what the site never asks of them. The browser
# must refuse them all the same: each page that loads one carries a policy that allows nothing but the site.
BUNDLED: Final = ("plotly.min.js",)
POLICY: Final = re.compile(r"""<meta\s+http-equiv="Content-Security-Policy"\s+content="([^"]+)">""")
SITE_ONLY: Final = {"'self'", "'none'", "'unsafe-inline'", "data:", "blob:"}


def loads(path: Path) -> list[str]:
    """The addresses which the browser loads on behalf of one html, css or js file."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".js":
        # What a script loads is no fixed pattern; that it spells out no other host is.
        return QUOTED_OUTSIDE.findall(text)
    if path.suffix == ".css":
        return CSS_LOAD.findall(CSS_COMMENT.sub("", text))
    text = FOLLOWED.sub("", text)
    return ADDRESS.findall(text) + CSS_LOAD.findall(text) + QUOTED_OUTSIDE.findall(text)


def check_offline(site: Path) -> None:
    """Raise UserError unless everything that the pages in `site` load lies in `site`."""
    for path in sorted(site.rglob("*")):
        if path.suffix not in {".html", ".css", ".js"} or (path.name in BUNDLED and is_guarded(path, site)):
            continue
        for address in loads(path):
            if OUTSIDE.match(address):
                raise UserError(
                    f"{path} loads {address} from another host, which tools/offline_site.py does not know "
                    "(another asv version?): add it to ASSETS"
                )
            if address.startswith(("data:", "#")):
                continue
            target = path.parent / re.split(r"[?#]", address)[0]
            if not target.is_file() or not target.stat().st_size:
                raise UserError(f"{path} loads {address}, which is missing or empty in {site}")


def is_guarded(script: Path, site: Path) -> bool:
    """Whether each page that loads `script`, and there is one, makes the browser refuse all other hosts."""
    pages = [(page, FOLLOWED.sub("", page.read_text(encoding="utf-8"))) for page in sorted(site.rglob("*.html"))]
    users = [text for page, text in pages if script in {page.parent / found for found in ADDRESS.findall(text)}]
    return bool(users) and all(allows_only_site(text) for text in users)


def allows_only_site(html: str) -> bool:
    """Whether a page's policy, stated before its first script, names no source but the site itself."""
    policy = POLICY.search(html.partition("<script")[0])
    if policy is None:
        return False
    directives = [directive.split() for directive in policy[1].split(";")]
    return any(words[:1] == ["default-src"] for words in directives) and all(
        SITE_ONLY.issuperset(words[1:]) for words in directives
    )


def copy_asset(name: str, destination: Path, release: Path) -> None:
    """Copy one asset of asv 0.5.1 into the folder `destination`."""
    source = release / "asv" / "www" / "vendor" / name
    if not source.is_file():
        raise UserError(f"asv's pages need {name} from asv 0.5.1, but there is no {source}; run\n    {INSTALL}")
    text = source.read_text(encoding="utf-8")
    if source.suffix == ".css":
        # Bootstrap's icon font, which asv 0.5.1 does not carry and no page of asv's uses.
        text = FONT_FACE.sub("", text)
    destination.mkdir(exist_ok=True)
    (destination / name).write_text(text, encoding="utf-8")


def make_offline(site: Path, release: Path) -> None:
    """Rewrite the published pages in `site` so that no request leaves it; a second call changes nothing.

    `release` is the folder into which asv 0.5.1 was installed.
    """

    def localise(tag: re.Match[str]) -> str:
        address = ADDRESS.search(tag[0])
        if address is None or address[1] not in ASSETS:
            return tag[0]
        name = ASSETS[address[1]]
        copy_asset(name, site / "assets", release)
        return OTHER_HOST_ATTRIBUTES.sub("", tag[0].replace(address[1], f"assets/{name}"))

    for page in sorted(site.glob("*.html")):
        page.write_text(TAG.sub(localise, page.read_text(encoding="utf-8")), encoding="utf-8")
    # asv's own licence; the libraries' stand at the head of their files.
    for licence in release.glob("asv-*.dist-info/**/LICENSE*"):
        (site / "assets" / licence.name).write_bytes(licence.read_bytes())
    check_offline(site)


class OfflineSite(OutputPublisher):  # type: ignore[misc]  # asv has no types
    """Runs after asv's own publishers: the default order is the last."""

    name = "offline_site"
    button_label = "Offline site"
    description = "Serves the pages' scripts and styles from the site itself"

    @classmethod
    def publish(cls, conf: Any, *_: Any) -> None:
        """asv's hook; of its five arguments only the configuration matters here."""
        make_offline(Path(conf.html_dir), RELEASE)
