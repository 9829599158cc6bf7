// A conversation with a model, turn by turn, whose keys and values stay from one turn to the next.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <random>
#include <string>
#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/harmony_reply.h"
#include "train/chat/reply.h"

namespace ossature {

struct ChatSettings {
  Conversation conversation;  // what it begins with: a developer message, reasoning effort, ...
  SamplingOptions sampling;
  std::int64_t max_new_tokens = 2048;
  std::uint64_t seed = 0;
};

class ChatSession {
 public:
  /// Both references must outlive it.
  ChatSession(const Transformer& transformer, const Harmony& harmony, ChatSettings settings);

  /// Answers `text`. Every token is given to `hear` as it comes; when it returns false, the reply stops. A turn stays
  /// in the conversation if something of its final answer was said; one without (a call of a tool, thinking that was
  /// cut) is forgotten, question and all. Throws DataError, and forgets the question, if the conversation has no room
  /// left.
  Reply ask(const std::string& text, const std::function<bool(std::int32_t)>& hear);
  /// Whether the last turn stayed.
  [[nodiscard]] bool has_kept_turn() const { return has_kept_turn_; }
  /// Begins anew, with the seed's first replies.
  void reset();

  /// Tokens of the last prompt, and how many of them had been computed before.
  [[nodiscard]] std::int64_t prompt_tokens() const { return prompt_tokens_; }
  [[nodiscard]] std::int64_t reused_tokens() const { return reused_tokens_; }

 private:
  [[nodiscard]] at::Tensor feed(const std::vector<std::int32_t>& prompt);

  const Transformer& transformer_;
  const Harmony& harmony_;
  ChatSettings settings_;
  Conversation conversation_;
  std::mt19937_64 generator_;
  Decoder decoder_;
  std::vector<std::int32_t> fed_;  // what decoder_ holds
  Decoder::Mark mark_;             // the end of the last prompt
  bool has_kept_turn_ = false;
  std::int64_t prompt_tokens_ = 0, reused_tokens_ = 0;
};

}  // namespace ossature
