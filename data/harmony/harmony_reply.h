// What a model generated after "<|start|>assistant", taken apart into messages.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "data/tokenizer/tokenizer.h"

namespace ossature {

/// One message of the assistant as the model wrote it.
struct GeneratedMessage {
  std::string channel;    // "analysis", "commentary", "final", or whatever the model wrote; "" if nothing
  std::string recipient;  // "functions.NAME" of a tool call, else ""
  std::string content;
  bool complete = false;  // whether "<|end|>", "<|call|>" or "<|return|>" follows
};

/// Finds channel and recipient in a header: `before_channel` and `after_channel` are its text on either side of
/// "<|channel|>", from behind "assistant" on. The recipient may stand in either.
void read_harmony_header(const std::string& before_channel, const std::string& after_channel,
                         GeneratedMessage& message);

/// `tokens` begin right after the prompt's "<|start|>assistant". Never throws: what a model writes may be anything, and
/// text outside the format becomes content.
[[nodiscard]] std::vector<GeneratedMessage> parse_reply(const Tokenizer& tokenizer,
                                                        std::span<const std::int32_t> tokens);

/// The contents of all messages of that channel without a recipient, one after the other.
[[nodiscard]] std::string content_of(const std::vector<GeneratedMessage>& messages, const std::string& channel);

}  // namespace ossature
