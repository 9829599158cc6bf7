#include "data/harmony_reply.h"

#include <sstream>

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
  const auto is = [&](std::int32_t id, const char* name) { return tokenizer.special(name) == id; };
  std::vector<GeneratedMessage> messages;
  std::string role, header, content;
  bool begins_with_role = false;  // the first message's role is in the prompt
  enum { kRole, kHeader, kContent } state = kRole;
  const auto finish = [&](bool complete) {
    GeneratedMessage message;
    if (state == kRole) {
      if (begins_with_role && role.starts_with("assistant")) role.erase(0, 9);
      message.content = std::move(role);  // no header at all
    } else {
      read_harmony_header(role, header, message);
      message.content = std::move(content);
    }
    message.complete = complete;
    if (state != kRole || !message.content.empty()) messages.push_back(std::move(message));
    role.clear();
    header.clear();
    content.clear();
    state = kRole;
  };
  for (const std::int32_t id : tokens) {
    if (is(id, "<|end|>") || is(id, "<|call|>") || is(id, "<|return|>")) {
      finish(true);
    } else if (is(id, "<|start|>")) {
      finish(false);
      begins_with_role = true;
    } else if (is(id, "<|channel|>") && state != kContent) {
      state = kHeader;
    } else if (is(id, "<|message|>") && state != kContent) {
      state = kContent;
    } else if (state == kContent) {
      content += tokenizer.bytes_of(id);
    } else {
      // "to=functions.f<|constrain|>json" has two words.
      const std::string space = tokenizer.is_special(id) ? " " : "";
      (state == kRole ? role : header) += space + std::string(tokenizer.bytes_of(id)) + space;
    }
  }
  finish(false);
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
