#include "data/harmony/harmony_text.h"

#include <algorithm>

#include "data/data_error.h"
#include "data/harmony/harmony_reply.h"

namespace ossature {
namespace {

constexpr std::string_view kSpace = " \t\r\n";

/// A special token, or the text up to the next one.
struct Piece {
  std::int32_t special = -1;  // -1: text
  std::string_view text;
  std::size_t position = 0;
};

[[noreturn]] void fail(std::size_t position, const std::string& what) {
  throw DataError("at byte " + std::to_string(position) + ": " + what);
}

class Pieces {
 public:
  Pieces(std::string_view text, const HarmonyEncoder& encoder) : text_(text), encoder_(encoder) { advance(); }

  /// Empty text at the end.
  [[nodiscard]] const Piece& now() const { return now_; }
  [[nodiscard]] bool at_end() const { return now_.special < 0 && now_.text.empty(); }
  [[nodiscard]] bool is(std::int32_t special) const { return now_.special == special; }

  void advance() {
    const std::size_t position = now_.position + now_.text.size();
    std::size_t length = 0;
    const std::int32_t special = special_at(position, length);
    if (special < 0) {
      std::size_t end = text_.find("<|", position);
      while (end != std::string_view::npos && special_at(end, length) < 0) end = text_.find("<|", end + 1);
      length = std::min(end, text_.size()) - position;
    }
    now_ = {special, text_.substr(position, length), position};
  }

 private:
  /// The special token whose name begins there, and its length; -1 if none does.
  std::int32_t special_at(std::size_t position, std::size_t& length) const {
    constexpr std::size_t kLongestName = 32;
    if (text_.substr(position, 2) != "<|") return -1;
    const std::size_t end = text_.substr(position, kLongestName).find("|>");
    if (end == std::string_view::npos) return -1;
    const std::string_view name = text_.substr(position, end + 2);
    const auto id = encoder_.tokenizer().special(name);
    if (!id) return -1;
    const auto known = {encoder_.start,     encoder_.end,     encoder_.message, encoder_.channel,
                        encoder_.constrain, encoder_.return_, encoder_.call};
    if (std::find(known.begin(), known.end(), *id) == known.end()) {
      fail(position, std::string(name) + ", which has no place in the harmony format; remove it");
    }
    length = name.size();
    return *id;
  }

  std::string_view text_;
  const HarmonyEncoder& encoder_;
  Piece now_;
};

class MessageReader {
 public:
  MessageReader(std::string_view text, const HarmonyEncoder& encoder) : encoder_(encoder), pieces_(text, encoder) {}

  std::vector<HarmonyMessage> read() {
    if (pieces_.at_end()) throw DataError("no text; expected messages in the harmony format");
    while (!pieces_.at_end()) read_message();
    return std::move(messages_);
  }

 private:
  void read_message() {
    if (!pieces_.is(encoder_.start)) {
      fail(pieces_.now().position,
           found() + (messages_.empty() ? "; expected <|start|>, which begins a message"
                                        : "; expected <|start|>, which begins the next message"));
    }
    if (!messages_.empty() && messages_.back().tokens.back() == encoder_.return_) {
      fail(pieces_.now().position, "a message after <|return|>; write <|end|> where the conversation goes on");
    }
    begin_ = pieces_.now().position;
    HarmonyMessage& message = messages_.emplace_back();
    take_special(message);
    read_header(message);
    read_content(message);
  }

  void read_header(HarmonyMessage& message) {
    const Tokenizer& tokenizer = encoder_.tokenizer();
    const std::size_t position = pieces_.now().position;
    const std::string_view author = pieces_.now().special < 0 ? pieces_.now().text : std::string_view();
    const std::string_view name = author.substr(0, author.find_first_of(": "));
    tokenizer.encode(name, message.tokens);
    message.num_header = message.tokens.size();
    tokenizer.encode(author.substr(name.size()), message.tokens);
    if (pieces_.now().special < 0) pieces_.advance();

    std::string rest;
    bool has_channel = false;
    while (!pieces_.is(encoder_.message)) {
      if (pieces_.now().special < 0 && !pieces_.at_end()) {
        rest += pieces_.now().text;
        tokenizer.encode(pieces_.now().text, message.tokens);
        pieces_.advance();
        continue;
      }
      if (!pieces_.is(encoder_.constrain) && (has_channel || !pieces_.is(encoder_.channel))) {
        fail(pieces_.now().position, found() + " in the header of the message at byte " + std::to_string(begin_) +
                                         "; expected <|message|>, which begins its content");
      }
      has_channel = has_channel || pieces_.is(encoder_.channel);
      rest += " ";
      take_special(message);
    }
    GeneratedMessage header;
    read_harmony_header(std::string(author.substr(name.size())), rest, header);
    if (has_channel) message.channel = header.channel;
    recipient_ = header.recipient;
    message.role = role_of(std::string(name), position);
    if (!message.is_assistant()) message.num_header = message.tokens.size();
    take_special(message);
  }

  void read_content(HarmonyMessage& message) {
    if (pieces_.now().special < 0 && !pieces_.at_end()) {
      encoder_.tokenizer().encode(pieces_.now().text, message.tokens);
      pieces_.advance();
    }
    const bool is_stop = pieces_.is(encoder_.call) || pieces_.is(encoder_.return_);
    if (!pieces_.is(encoder_.end) && !is_stop) {
      fail(pieces_.now().position, found() + " in the content of the message at byte " + std::to_string(begin_) +
                                       "; expected <|end|>, <|call|> or <|return|>, which end it");
    }
    if (is_stop && !message.is_assistant()) {
      fail(pieces_.now().position, found() + " ends a message that is not the assistant's; expected <|end|>");
    }
    message.is_call = message.is_assistant() && (pieces_.is(encoder_.call) || !recipient_.empty());
    if (!recipient_.empty() && message.is_assistant()) called_.push_back(recipient_);
    take_special(message);
    if (pieces_.now().special < 0 && pieces_.now().text.find_first_not_of(kSpace) == std::string_view::npos) {
      const std::size_t position = pieces_.now().position;
      if (!pieces_.at_end()) pieces_.advance();
      if (!pieces_.at_end()) fail(position, "white space between messages; remove it: the model never sees any there");
    }
  }

  HarmonyRole role_of(const std::string& name, std::size_t position) const {
    if (name == "system") return HarmonyRole::kSystem;
    if (name == "developer") return HarmonyRole::kDeveloper;
    if (name == "user") return HarmonyRole::kUser;
    if (name == "assistant") return HarmonyRole::kAssistant;
    const bool was_called = std::find(called_.begin(), called_.end(), name) != called_.end();
    if (!name.empty() && (was_called || recipient_ == "assistant" || name.find('.') != std::string::npos)) {
      return HarmonyRole::kTool;
    }
    fail(position, "role \"" + name + "\"; expected system, developer, user, assistant or the name of a tool");
  }

  void take_special(HarmonyMessage& message) {
    message.tokens.push_back(pieces_.now().special);
    pieces_.advance();
  }

  [[nodiscard]] std::string found() const {
    if (pieces_.at_end()) return "the text ends";
    constexpr std::size_t kShown = 40;
    std::size_t length = std::min(kShown, pieces_.now().text.size());
    while (length < pieces_.now().text.size() && (pieces_.now().text[length] & 0xc0) == 0x80) ++length;
    const std::string shown(pieces_.now().text.substr(0, length));
    return pieces_.now().special >= 0 ? shown : "\"" + shown + "\"";
  }

  const HarmonyEncoder& encoder_;
  Pieces pieces_;
  std::vector<HarmonyMessage> messages_;
  std::vector<std::string> called_;  // recipients of the assistant's calls
  std::string recipient_;            // of this message
  std::size_t begin_ = 0;            // of this message
};

}  // namespace

std::vector<HarmonyMessage> read_harmony_text(std::string_view text, const HarmonyEncoder& encoder) {
  return MessageReader(text, encoder).read();
}

}  // namespace ossature
