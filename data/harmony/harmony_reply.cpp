#include "data/harmony/harmony_reply.h"

#include <sstream>

#include "data/harmony/reply_stream.h"

namespace ossature {

void read_harmony_header(const std::string& before_channel, const std::string& after_channel,
                         GeneratedMessage& message) {
  std::istringstream words(after_channel);
  words >> message.channel;
  if (message.channel.starts_with("to=")) message.channel.clear();
  std::istringstream all(before_channel + " " + after_channel);
  for (std::string word; all >> word;) {
    if (word.starts_with("to=")) message.recipient = word.substr(3);
  }
}

std::vector<GeneratedMessage> parse_reply(const Tokenizer& tokenizer, std::span<const std::int32_t> tokens) {
  std::vector<GeneratedMessage> messages;
  const auto add = [&](const std::vector<ReplyPiece>& pieces) {
    for (const ReplyPiece& piece : pieces) {
      if (piece.kind == ReplyPiece::kBegin) messages.push_back(piece.message);
      if (piece.kind == ReplyPiece::kText) messages.back().content += piece.text;
      if (piece.kind == ReplyPiece::kEnd) messages.back().complete = piece.message.complete;
    }
  };
  ReplyStream stream(tokenizer);
  for (const std::int32_t id : tokens) add(stream.feed(id));
  add(stream.finish());
  return messages;
}

std::string content_of(const std::vector<GeneratedMessage>& messages, const std::string& channel) {
  std::string content;
  for (const GeneratedMessage& message : messages) {
    if (message.channel == channel && message.recipient.empty()) content += message.content;
  }
  return content;
}

}  // namespace ossature
