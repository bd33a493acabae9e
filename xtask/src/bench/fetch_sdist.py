"""Fetches the source archive of one pinned package from pip's index and unpacks it.

pip itself would run the package's build to learn its metadata, which for llama.cpp takes as long as the build.

Usage: fetch_sdist.py PACKAGE VERSION SHA256 FOLDER
"""

import hashlib
import html.parser
import os
import ssl
import subprocess
import sys
import tarfile
import urllib.parse
import urllib.request

PIECE = 1 << 20


def setting(name, default):
    """A setting of pip: from its environment variable, else its configuration."""
    value = os.environ.get("PIP_" + name.upper().replace("-", "_"))
    if not value:
        command = [sys.executable, "-m", "pip", "config", "get", "global." + name]
        value = subprocess.run(command, capture_output=True, text=True).stdout.strip()
    return value or default


class Links(html.parser.HTMLParser):
    """The addresses that a page links to."""

    def __init__(self):
        super().__init__()
        self.found = []

    def handle_starttag(self, tag, attributes):
        if tag == "a":
            self.found.append(dict(attributes).get("href") or "")


def main(package, version, sha256, folder):
    certificates = setting("cert", None)
    trust = ssl.create_default_context(cafile=certificates)
    index = setting("index-url", "https://pypi.org/simple").rstrip("/")
    page = f"{index}/{package}/"
    with urllib.request.urlopen(page, context=trust, timeout=60) as answer:
        links = Links()
        links.feed(answer.read().decode())
        base = answer.url
    name = f"{package.replace('-', '_')}-{version}.tar.gz"
    link = next((link for link in links.found if link.split("#")[0].endswith("/" + name)), None)
    if link is None:
        sys.exit(f"{page} links to no {name}")
    archive = os.path.join(folder, name)
    digest = hashlib.sha256()
    address = urllib.parse.urljoin(base, link.split("#")[0])
    with urllib.request.urlopen(address, context=trust, timeout=60) as answer, open(archive, "wb") as file:
        total, done = int(answer.headers.get("Content-Length") or 0), 0
        while piece := answer.read(PIECE):
            digest.update(piece)
            file.write(piece)
            done += len(piece)
            print(f"{done >> 20} of {total >> 20} MiB", file=sys.stderr, flush=True)
    if digest.hexdigest() != sha256:
        sys.exit(f"{name} is not the pinned file: sha256 {digest.hexdigest()}, expected {sha256}")
    with tarfile.open(archive) as tar:
        # Newer Pythons ask what an archive may do; older ones know only one way.
        if hasattr(tarfile, "data_filter"):
            tar.extractall(folder, filter="data")
        else:
            tar.extractall(folder)


main(*sys.argv[1:])
