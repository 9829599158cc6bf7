#include "data/harmony/harmony_encoder.h"

#include "data/data_error.h"

namespace ossature {
namespace {

constexpr std::string_view kConstrain = "<|constrain|>";

std::int32_t special(const Tokenizer& tokenizer, std::string_view name) {
  const auto id = tokenizer.special(name);
  if (!id) {
    throw DataError("the tokenizer has no special token " + std::string(name) +
                    "; use the tokenizer of a gpt-oss checkpoint");
  }
  return *id;
}

}  // namespace

HarmonyEncoder::HarmonyEncoder(Tokenizer tokenizer)
    : tokenizer_(std::move(tokenizer)),
      start(special(tokenizer_, "<|start|>")),
      end(special(tokenizer_, "<|end|>")),
      message(special(tokenizer_, "<|message|>")),
      channel(special(tokenizer_, "<|channel|>")),
      constrain(special(tokenizer_, kConstrain)),
      return_(special(tokenizer_, "<|return|>")),
      call(special(tokenizer_, "<|call|>")) {}

void HarmonyEncoder::encode(HarmonyMessage& out) const {
  if (!out.tokens.empty()) return;
  out.tokens.push_back(start);
  for (std::size_t i = 0; i < out.author.size(); ++i) {
    tokenizer_.encode(out.author[i], out.tokens);
    // Of the assistant, only "assistant" stands in a prompt: it writes its name and recipient itself.
    if (i == 0 || !out.is_assistant()) out.num_header = out.tokens.size();
  }
  if (!out.channel.empty()) {
    out.tokens.push_back(channel);
    tokenizer_.encode(out.channel, out.tokens);
  }
  if (out.content_type.starts_with(kConstrain)) {
    tokenizer_.encode(" ", out.tokens);
    out.tokens.push_back(constrain);
    tokenizer_.encode(std::string_view(out.content_type).substr(kConstrain.size()), out.tokens);
  } else if (!out.content_type.empty()) {
    tokenizer_.encode(" " + out.content_type, out.tokens);
  }
  out.tokens.push_back(message);
  for (const std::string& part : out.content) tokenizer_.encode(part, out.tokens);
  out.tokens.push_back(out.is_call ? call : end);
}

}  // namespace ossature
