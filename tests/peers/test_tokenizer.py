"""Our tokens against the tokenizers library's and openai-harmony's: random Unicode texts, and every code point.

Run by tests/peers/run, or alone with OSSATURE_PROGRAM set. The tokenizer is gpt-oss's where the clone has ../shared/tokenizer (with the ranks
o200k_base.tiktoken for openai-harmony), or else the small one of the tests' fixtures, which openai-harmony does not know.
"""

import json
import os
import pathlib
import random
import subprocess
import tempfile
import unittest

import h5py
import tokenizers

ROOT = pathlib.Path(__file__).resolve().parents[2]
PROGRAM = os.environ["OSSATURE_PROGRAM"]
SHARED = ROOT.parent / "shared/tokenizer"
TOKENIZER = SHARED if (SHARED / "tokenizer.json").exists() else ROOT / "tests/data/fixtures"

CODE_POINTS = [*range(1, 0xD800), *range(0xE000, 0x110000)]
SPACES = [chr(c) for c in (0x9, 0xA, 0xB, 0xC, 0xD, 0x20, 0x85, 0xA0, 0x1680, *range(0x2000, 0x200C), 0x2028, 0x2029, 0x202F, 0x205F, 0x3000, 0x180E, 0xFEFF)]
CONTRACTIONS = ["'s", "'S", "'ſ", "'t", "'T", "'re", "'Re", "'rE", "'ve", "'VE", "'m", "'M", "'ll", "'lL", "'d", "'D", "'l", "'r", "'K", "’s", "ʼn", "''s"]
MARKS = ["\u0301", "\u0308", "\u0903", "\u20dd", "\u200d", "\ufe0f", "\U000e0101", "\u0897"]
SCRIPTS = ["abc", "ABC", "Éé", "ßẞ", "ǅǈ", "дЖ", "λΣς", "עב", "عرب", "हिन्दी", "ไทย", "한국", "日本語", "汉字", "ʰˠ", "ªº", "𝐀𝒷", "Ⅷↂ", "٣४๕", "½²①", "𐵐𐵰", "𐵀", "ﬀﬅ", "İı", "K"]
SYMBOLS = ["!", "...", "//", "/", "<|", "|>", "<|start|>", "<|endoftext|>", "_", "-", "—", "€", "→", "😀", "👩‍👩‍👧", "🇫🇷", "👍🏽", "\x00", "\x01", "\x1b", "\x7f", "\x9f", "\ufffd", "\uffff", "\U0010ffff"]


def random_text(source):
    parts = []
    for _ in range(source.choice([1, 2, 3, 5, 8, 13, 30])):
        kind = source.randrange(10)
        if kind == 0:
            part = "".join(chr(source.choice(CODE_POINTS)) for _ in range(source.randrange(1, 6)))
        elif kind == 1:
            part = "".join(source.choice(SPACES) for _ in range(source.randrange(1, 5)))
        elif kind == 2:
            part = source.choice(CONTRACTIONS)
        elif kind == 3:
            part = source.choice(MARKS)
        elif kind == 4:
            part = str(source.randrange(10 ** source.randrange(1, 12)))
        elif kind == 5:
            part = source.choice(SYMBOLS) * source.choice([1, 1, 1, 2, 5])
        elif kind == 6 and source.randrange(20) == 0:
            part = source.choice(["a", "A", " ", "\n", "=", "日", "7", "\u0301", "😀", "ab", "\r\n", " \n"]) * source.randrange(20, 400)
        else:
            letters = source.choice(SCRIPTS)
            part = "".join(source.choice(letters) for _ in range(source.randrange(1, 9)))
        parts.append(source.choice(["", "", "", " "]) + part)
    return "".join(parts)


class TokenizerTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.library = tokenizers.Tokenizer.from_file(str(TOKENIZER / "tokenizer.json"))
        cls.library.encode_special_tokens = True  # their names in a text are text
        source = random.Random(20261125)
        cls.texts = [random_text(source) for _ in range(20000)]
        # Every code point between others.
        for template in ["{}", "a{}b ", " {}!", "A{}'s\n", "1{}1", "日{} "]:
            for first in range(0, len(CODE_POINTS), 3000):
                cls.texts.append("".join(template.format(chr(c)) for c in CODE_POINTS[first : first + 3000]))
        cls.ids = cls.prepared(cls.texts)

    @staticmethod
    def prepared(texts):
        with tempfile.TemporaryDirectory(prefix="ossature-peers-") as folder:
            lines, out = pathlib.Path(folder) / "texts.jsonl", pathlib.Path(folder) / "out.h5"
            lines.write_text("".join(json.dumps({"text": text}, ensure_ascii=False) + "\n" for text in texts), encoding="utf-8")
            command = [PROGRAM, "prepare", lines, "--tokenizer", TOKENIZER, "--format", "text", "--out", out]
            subprocess.run(list(map(str, command)), check=True, capture_output=True)
            with h5py.File(out) as file:
                offsets, tokens = file["sample_offsets"][()], file["tokens"][()].tolist()
        return [tokens[begin:end] for begin, end in zip(offsets[:-1], offsets[1:])]

    def assert_same(self, theirs):
        self.assertEqual(len(self.ids), len(self.texts))
        wrong = [i for i, (our, their) in enumerate(zip(self.ids, theirs)) if our != list(their)]
        if wrong:
            self.fail(f"{len(wrong)} of {len(self.texts)} texts differ, first {self.texts[wrong[0]]!r:.300}")

    def test_ids_are_the_tokenizers_librarys(self):
        self.assert_same(encoding.ids for encoding in self.library.encode_batch(self.texts, add_special_tokens=False))

    def test_ids_are_openai_harmonys(self):
        if TOKENIZER != SHARED:
            self.skipTest("needs ../shared/tokenizer")
        os.environ["TIKTOKEN_ENCODINGS_BASE"] = str(SHARED)
        import openai_harmony

        encoding = openai_harmony.load_harmony_encoding(openai_harmony.HarmonyEncodingName.HARMONY_GPT_OSS)
        self.assert_same(encoding.encode(text, disallowed_special=()) for text in self.texts)

    def test_decoding_gives_the_text_back(self):
        for text, ids in zip(self.texts, self.ids):
            self.assertEqual(self.library.decode(ids, skip_special_tokens=False), text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
