#!/usr/bin/env python3
"""Writes data/tokenizer/unicode_ranges.cpp: Unicode's general categories as the splitter of words needs them.

Needs the package unicodedata2 of the version below, which carries Unicode 16.0: what the tokenizers library and openai-harmony
go by. A newer Unicode only names code points that have no token of their own.
"""

import pathlib

import unicodedata2

VERSION = "16.0.0"
WHITE_SPACE = {*range(0x9, 0xE), 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200B), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000}
# The order of CharacterClass in data/tokenizer/unicode_classes.h.
OTHER, UPPER, LOWER, CASELESS, MARK, NUMBER, SPACE, NEWLINE = range(8)
CLASS_OF = {"Lu": UPPER, "Lt": UPPER, "Ll": LOWER, "Lm": CASELESS, "Lo": CASELESS}


def class_of(code):
    if code in (0xA, 0xD):
        return NEWLINE
    if code in WHITE_SPACE:
        return SPACE
    category = unicodedata2.category(chr(code))
    return CLASS_OF.get(category, {"M": MARK, "N": NUMBER}.get(category[0], OTHER))


def main():
    if unicodedata2.unidata_version != VERSION:
        raise SystemExit(f"unicodedata2 {VERSION} is wanted (pip install unicodedata2=={VERSION})")
    ranges = []
    for code in range(0x110000):
        if not ranges or ranges[-1] & 7 != class_of(code):
            ranges.append(code << 3 | class_of(code))
    lines = [
        "// Made by scripts/make_unicode_classes.py from the general categories of Unicode " + VERSION + "; do not edit.",
        '#include "data/tokenizer/unicode_ranges.h"',
        "",
        "namespace ossature {",
        "",
        "// clang-format off",
        f"const std::array<std::uint32_t, kNumUnicodeRanges> kUnicodeRanges = {{{{  // {len(ranges)}",
    ]
    for first in range(0, len(ranges), 12):
        lines.append("    " + " ".join(f"0x{value:x}," for value in ranges[first : first + 12]))
    lines += ["}};", "// clang-format on", "", "}  // namespace ossature", ""]
    folder = pathlib.Path(__file__).resolve().parents[1] / "data/tokenizer"
    (folder / "unicode_ranges.cpp").write_text("\n".join(lines))
    header = (folder / "unicode_ranges.h").read_text()
    if f"kNumUnicodeRanges = {len(ranges)};" not in header:
        raise SystemExit(f"set kNumUnicodeRanges = {len(ranges)} in data/tokenizer/unicode_ranges.h")


if __name__ == "__main__":
    main()
