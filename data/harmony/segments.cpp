#include "data/harmony/segments.h"

#include <algorithm>
#include <array>
#include <sstream>

namespace ossature {
namespace {

constexpr std::int64_t kO200kVocabSize = 200019;

bool starts_with(std::span<const std::int32_t> tokens, const std::vector<std::int32_t>& word) {
  return !word.empty() && tokens.size() >= word.size() && std::equal(word.begin(), word.end(), tokens.begin());
}

std::array<std::int32_t, 6> marks(const HarmonyTokens& harmony) {
  return {harmony.start, harmony.channel, harmony.message, harmony.end, harmony.call, harmony.return_};
}

}  // namespace

HarmonyTokens HarmonyTokens::of(const Tokenizer& tokenizer) {
  const auto special = [&](const char* name) { return tokenizer.special(name).value_or(-1); };
  return {special("<|start|>"),         special("<|end|>"),
          special("<|message|>"),       special("<|channel|>"),
          special("<|constrain|>"),     special("<|return|>"),
          special("<|call|>"),          tokenizer.encode("assistant"),
          tokenizer.encode("analysis"), tokenizer.encode("commentary"),
          tokenizer.encode("final"),    tokenizer.encode(" to")};
}

HarmonyTokens HarmonyTokens::o200k(std::int64_t vocab_size) {
  if (vocab_size < kO200kVocabSize) return {};
  // The specials and words of openai-harmony's encoding HarmonyGptOss.
  return {200006, 200007, 200008, 200005, 200003, 200002, 200012, {173781}, {35644}, {12606, 815}, {17196}, {316}};
}

std::string_view name_of(SegmentKind kind) {
  constexpr std::string_view kNames[kNumSegmentKinds] = {"analysis",   "commentary",     "final",
                                                         "tool_calls", "other_messages", "plain_text"};
  return kNames[static_cast<std::size_t>(kind)];
}

SegmentFinder::SegmentFinder(const HarmonyTokens& harmony, std::span<const std::int32_t> tokens)
    : harmony_(harmony), tokens_(tokens) {
  const auto ids = marks(harmony);
  highest_ = *std::max_element(ids.begin(), ids.end());
  lowest_ = highest_;
  for (const std::int32_t id : ids)
    if (id >= 0) lowest_ = std::min(lowest_, id);
  if (!harmony.is_known()) lowest_ = 0, highest_ = -1;  // no token marks anything
}

SegmentKind SegmentFinder::kind_of(std::int64_t begin, std::int64_t channel, std::int64_t content) const {
  const auto part = [this](std::int64_t from, std::int64_t to) {
    return tokens_.subspan(static_cast<std::size_t>(from), static_cast<std::size_t>(to - from));
  };
  const bool has_channel = channel >= 0;
  auto role = part(begin, has_channel ? channel : content);
  if (!role.empty() && role.front() == harmony_.start) role = role.subspan(1);
  const bool is_assistant = role.empty() || starts_with(role, harmony_.assistant) || starts_with(role, harmony_.to);
  if (!is_assistant) return SegmentKind::kOther;
  const auto header = part(begin, content);
  if (!harmony_.to.empty() &&
      std::search(header.begin(), header.end(), harmony_.to.begin(), harmony_.to.end()) != header.end()) {
    return SegmentKind::kToolCalls;
  }
  if (!has_channel) return SegmentKind::kOther;
  const auto name = part(channel + 1, content);
  if (starts_with(name, harmony_.final)) return SegmentKind::kFinal;
  if (starts_with(name, harmony_.analysis)) return SegmentKind::kAnalysis;
  if (starts_with(name, harmony_.commentary)) return SegmentKind::kCommentary;
  return SegmentKind::kOther;
}

bool SegmentFinder::next(Segment& segment) {
  const auto size = static_cast<std::int64_t>(tokens_.size());
  if (position_ >= size) return false;
  const std::int64_t begin = position_;
  const bool has_start = tokens_[static_cast<std::size_t>(begin)] == harmony_.start && harmony_.is_known();
  std::int64_t channel = -1, content = -1;
  std::int64_t i = begin + (has_start ? 1 : 0), end = size, content_end = size;
  for (; i < size; ++i) {
    const std::int32_t id = tokens_[static_cast<std::size_t>(i)];
    if (id < lowest_ || id > highest_) continue;
    if (id == harmony_.start) {
      content_end = end = i;
      break;
    }
    if (id == harmony_.end || id == harmony_.call || id == harmony_.return_) {
      content_end = i;
      end = i + 1;
      break;
    }
    if (content >= 0) continue;  // inside of content the other marks are content
    if (id == harmony_.channel && channel < 0) channel = i;
    if (id == harmony_.message) content = i + 1;
  }
  position_ = end;
  segment.begin = begin;
  segment.end = end;
  if (content < 0 && !has_start && channel < 0) {
    segment.kind = SegmentKind::kText;
    segment.content_begin = begin;
  } else {
    segment.content_begin = content >= 0 ? content : content_end;  // all header if it was cut there
    segment.kind = kind_of(begin, channel, content >= 0 ? content - 1 : content_end);
  }
  segment.content_end = content_end;
  return true;
}

SegmentHeader header_of(const Tokenizer& tokenizer, const HarmonyTokens& harmony, std::span<const std::int32_t> tokens,
                        const Segment& segment) {
  std::string before, after;  // of the channel token
  bool is_after = false;
  for (std::int64_t i = segment.begin; i < segment.content_begin; ++i) {
    const std::int32_t id = tokens[static_cast<std::size_t>(i)];
    std::string& text = is_after ? after : before;
    if (id == harmony.channel && !is_after) {
      is_after = true;
    } else if (id == harmony.constrain) {
      text += " " + std::string(tokenizer.bytes_of(id));  // "to=f<|constrain|>json" has two words
    } else if (id != harmony.start && id != harmony.message) {
      text += tokenizer.bytes_of(id);
    }
  }
  SegmentHeader header;
  std::string role, word;
  const auto take = [&header](const std::string& found) {
    (found.starts_with("to=") ? header.recipient : header.content_type) =
        found.starts_with("to=") ? found.substr(3) : found;
  };
  std::istringstream words(before);
  words >> role;
  while (words >> word) take(word);
  std::istringstream rest(after);
  for (bool is_first = true; rest >> word; is_first = false) {
    if (is_first && !word.starts_with("to=") && !word.starts_with("<|constrain|>")) {
      header.channel = word;
    } else {
      take(word);
    }
  }
  const std::size_t colon = role.find(':');
  header.role = role.substr(0, colon);
  if (colon != std::string::npos) header.name = role.substr(colon + 1);
  constexpr std::string_view kRoles[] = {"", "system", "developer", "user", "assistant", "tool"};
  if (std::find(std::begin(kRoles), std::end(kRoles), header.role) == std::end(kRoles)) {
    header.name = role;
    header.role = "tool";
  }
  return header;
}

}  // namespace ossature
