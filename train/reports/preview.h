// Shows samples as a reader checks them before training: the text as it is rendered, and which tokens are learned.
#pragma once

#include <cstdint>
#include <iosfwd>
#include <string>
#include <string_view>
#include <vector>

#include "data/harmony/segments.h"
#include "data/tokenizer/tokenizer.h"

namespace ossature {

struct PreviewSample {
  std::string title;  // "sample 3 of 120, chats.jsonl:4"
  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;
  std::int64_t length = 0;  // tokens of the whole sample, of which `tokens` may be the first
};

/// One message, or a stretch of plain text.
struct PreviewMessage {
  Segment segment;
  std::string heading;       // "assistant, commentary, to functions.f, json"; safe to show
  std::int64_t learned = 0;  // tokens
};

/// The messages of a sample.
[[nodiscard]] std::vector<PreviewMessage> preview_messages(const PreviewSample& sample, const Tokenizer& tokenizer,
                                                           const HarmonyTokens& harmony);

/// "4,096 tokens, 120 learned", and how many of them are shown.
[[nodiscard]] std::string preview_counts(const PreviewSample& sample);

/// What is to be shown of a token: its bytes, or "\id{201000}" if the tokenizer gives it no meaning.
[[nodiscard]] std::string preview_bytes(const Tokenizer& tokenizer, std::int32_t id);

/// Writes samples as text, for a terminal or a file. A line break of the data begins a line with "|", every change of
/// the loss weight one with ">"; the weight stands in front of it. `color` adds escape sequences of ANSI terminals; the
/// data itself can add none.
void write_preview_text(std::ostream& out, const std::vector<PreviewSample>& samples, const Tokenizer& tokenizer,
                        bool color);

/// One HTML page that needs nothing else: no script, no network. Each token tells its id, weight and position when
/// pointed at.
void write_preview_page(std::ostream& out, std::string_view title, const std::vector<PreviewSample>& samples,
                        const Tokenizer& tokenizer);

}  // namespace ossature
