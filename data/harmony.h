// The harmony format: a conversation as the tokens that gpt-oss reads and writes, exactly as the chat template
// published with the checkpoints renders it (chat_template.jinja), and which of these tokens are learned.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/tokenizer.h"

namespace ossature {

/// Where an assistant's words go.
enum class Channel { kNone, kAnalysis, kCommentary, kFinal };

/// A stretch of a rendered conversation: one special token or the text between two, with one weight.
struct HarmonySpan {
  std::string text;
  bool is_special = false;
  float weight = 0.0f;
  Channel channel = Channel::kNone;  // of learned spans
};

/// Today's date here, "2026-01-15".
[[nodiscard]] std::string current_date();

/// The spans of a whole conversation, for training; or, for a prompt, of one that ends in "<|start|>assistant". `date`
/// is the conversation's unless it has its own; nullopt leaves the line out of the system message. Learned is what an
/// assistant generates, stop tokens included, with its message's weight; not the first "<|start|>assistant" after
/// another role's message, which is the prompt. Throws DataError where the published template fails or drops a message.
[[nodiscard]] std::vector<HarmonySpan> render_training(const Conversation& conversation,
                                                       const std::optional<std::string>& date);
[[nodiscard]] std::vector<HarmonySpan> render_prompt(const Conversation& conversation,
                                                     const std::optional<std::string>& date);

/// A sample ready for a token file.
struct EncodedSample {
  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;               // [tokens], of each token as a target
  std::array<std::int64_t, 4> learned_tokens{};  // by Channel; plain text counts as kNone
};

/// Renders and encodes with one tokenizer. Immutable, safe to share between threads.
class Harmony {
 public:
  /// `date` as for render_training. Throws DataError if the tokenizer lacks one of harmony's special tokens.
  explicit Harmony(Tokenizer tokenizer, std::optional<std::string> date = current_date());

  [[nodiscard]] const Tokenizer& tokenizer() const { return tokenizer_; }
  [[nodiscard]] EncodedSample encode(const Conversation& conversation) const;
  /// All tokens of a text are learned, but the first, which nothing precedes.
  [[nodiscard]] EncodedSample encode(const PlainText& text) const;
  /// What the model goes on from.
  [[nodiscard]] std::vector<std::int32_t> encode_prompt(const Conversation& conversation) const;
  /// Tokens that end the assistant's turn: <|return|>, <|call|>.
  [[nodiscard]] std::vector<std::int32_t> stop_tokens() const;

 private:
  [[nodiscard]] EncodedSample encode(const std::vector<HarmonySpan>& spans) const;

  Tokenizer tokenizer_;
  std::optional<std::string> date_;
};

}  // namespace ossature
