// Tokens of single messages in the harmony format. Internal to data/.
#pragma once

#include "data/harmony/harmony_message.h"
#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// The format's special tokens, and how a message is tokenized with them. Content is ordinary text always.
class HarmonyEncoder {
 public:
  /// Throws DataError if `tokenizer` lacks a special token of the format.
  explicit HarmonyEncoder(Tokenizer tokenizer);

  /// Sets `message`'s tokens and their header, unless they are set already.
  void encode(HarmonyMessage& message) const;

  [[nodiscard]] const Tokenizer& tokenizer() const { return tokenizer_; }

 private:
  Tokenizer tokenizer_;

 public:
  const std::int32_t start, end, message, channel, constrain, return_, call;
};

}  // namespace ossature
