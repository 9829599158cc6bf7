// Renders conversations in the harmony format, as gpt-oss's published chat template does, to tokens and loss weights.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "data/conversation.h"
#include "data/data_error.h"
#include "data/tokenizer.h"

namespace ossature {

/// Tokens and the weight of each as a target.
struct RenderedSample {
  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;
  std::array<std::int64_t, 3> learned_by_channel{};  // learned tokens of analysis, commentary and final messages
};

class Harmony {
 public:
  /// `date` ("2026-01-15") goes into the system message unless the conversation has its own; nullopt leaves its line
  /// out. Throws DataError if `tokenizer` lacks a special token of the format.
  Harmony(Tokenizer tokenizer, std::optional<std::string> date);

  /// A whole conversation for training. Learned is what the model generates: all of the assistant's turns, their stop
  /// tokens included, but not the first "<|start|>assistant" of a turn, which is its prompt. As in the template,
  /// thinking is rendered in the last turn only, and before a tool call that no final answer follows. Throws DataError
  /// where the template would refuse or silently drop something.
  [[nodiscard]] RenderedSample render(const Conversation& conversation) const;

  /// What the model is given to answer `conversation`: ends in "<|start|>assistant".
  [[nodiscard]] std::vector<std::int32_t> render_prompt(const Conversation& conversation) const;

  /// Plain text: every token but the first is learned.
  [[nodiscard]] RenderedSample render_text(const std::string& text) const;

  /// "<|return|>" ends an answer, "<|call|>" a call: generation stops at either.
  [[nodiscard]] std::int32_t return_token() const { return return_; }
  [[nodiscard]] std::int32_t call_token() const { return call_; }
  [[nodiscard]] const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  class Writer;
  [[nodiscard]] RenderedSample render(const Conversation& conversation, bool is_prompt) const;

  Tokenizer tokenizer_;
  std::optional<std::string> date_;
  std::int32_t start_, end_, message_, channel_, return_, call_;
};

/// Today's date on this machine, "2026-01-15".
[[nodiscard]] std::string today();

}  // namespace ossature
