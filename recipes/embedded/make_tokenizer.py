#!/usr/bin/env python3
"""Trains the embedded model's tokenizer on the files of make_corpora.py: `make_tokenizer.py --corpora DIR --out DIR`.

Byte-level byte-pair encoding built as o200k_harmony is, only smaller: the same way to cut text into words, no normaliser, whole words of
the vocabulary taken before merges, the special tokens of harmony after all others. Conversations are seen as harmony renders them, so the
words of its fixed system message are single tokens.
"""

import argparse
import json
import pathlib

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers

VOCABULARY = 4096
SPECIAL = "startoftext endoftext return constrain channel start end message call endofprompt".split()

# How o200k cuts text: words with their leading character and English contraction, up to three digits, punctuation, line breaks, spaces.
UPPER, LOWER = r"\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}", r"\p{Ll}\p{Lm}\p{Lo}\p{M}"
LEADING, CONTRACTION = r"[^\r\n\p{L}\p{N}]?", r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?"
WORDS = "|".join(
    [
        f"{LEADING}[{UPPER}]*[{LOWER}]+{CONTRACTION}",
        f"{LEADING}[{UPPER}]+[{LOWER}]*{CONTRACTION}",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    ]
)


def system_message(day, effort):
    return (
        "You are ChatGPT, a large language model trained by OpenAI.\nKnowledge cutoff: 2024-06\n"
        f"Current date: {2024 + day // 365 % 12}-{day // 30 % 12 + 1:02}-{day % 30 + 1:02}\n\nReasoning: {effort}\n\n"
        "# Valid channels: analysis, commentary, final. Channel must be included for every message."
    )


def texts(corpora):
    for line in (corpora / "text.jsonl").open():
        yield json.loads(line)["text"]
    conversations = [json.loads(line) for name in ["chat", "conversations-train"] for line in (corpora / f"{name}.jsonl").open()]
    for n, conversation in enumerate(conversations):
        yield system_message(37 * n, ["low", "medium", "high"][n % 3])
        yield from ["system", "developer", "user", "assistant", "analysis", "commentary", "final", "# Instructions\n\n"]
        for message in conversation["messages"]:
            yield from [message["content"]] * 4  # few beside the passages


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--corpora", type=pathlib.Path, required=True)
    parser.add_argument("--out", type=pathlib.Path, required=True)
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)

    tokenizer = Tokenizer(models.BPE(ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY - len(SPECIAL),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts(arguments.corpora), trainer)
    tokenizer.add_special_tokens([AddedToken(f"<|{name}|>", normalized=False, special=True) for name in SPECIAL])
    assert tokenizer.get_vocab_size() == VOCABULARY
    tokenizer.save(str(arguments.out / "tokenizer.json"), pretty=False)
    config = {
        "backend": "tokenizers",
        "bos_token": "<|startoftext|>",
        "eos_token": "<|return|>",
        "pad_token": "<|endoftext|>",
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    (arguments.out / "tokenizer_config.json").write_text(json.dumps(config, indent=2) + "\n")

    print({f"<|{name}|>": tokenizer.token_to_id(f"<|{name}|>") for name in SPECIAL})
    print("system message:", len(tokenizer.encode(system_message(0, "medium")).ids), "tokens")
    for path in sorted(arguments.corpora.glob("*.jsonl")):
        lines = [json.loads(line) for line in path.open()]
        pieces = [line["text"] for line in lines if "text" in line]
        pieces += [message["content"] for line in lines for message in line.get("messages", [])]
        print(f"{path.name}: {len(lines)} lines, {sum(len(e.ids) for e in tokenizer.encode_batch(pieces))} tokens of content")


if __name__ == "__main__":
    main()
