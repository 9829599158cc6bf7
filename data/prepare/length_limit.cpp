#include "data/prepare/length_limit.h"

#include <algorithm>
#include <optional>

namespace ossature {
namespace {

std::int64_t size_of(const RenderedSample& sample) {
  return static_cast<std::int64_t>(sample.tokens.size());
}

std::int64_t learned_from(const RenderedSample& sample, std::int64_t first) {
  return std::count_if(sample.loss_weights.begin() + first, sample.loss_weights.end(), [](float w) { return w > 0; });
}

/// Appends tokens begin .. end of `from`.
void append(const RenderedSample& from, std::int64_t begin, std::int64_t end, RenderedSample& to) {
  to.tokens.insert(to.tokens.end(), from.tokens.begin() + begin, from.tokens.begin() + end);
  to.loss_weights.insert(to.loss_weights.end(), from.loss_weights.begin() + begin, from.loss_weights.begin() + end);
}

}  // namespace

OverLength over_length(std::string_view name) {
  if (name == "error") return OverLength::kError;
  if (name == "drop") return OverLength::kDrop;
  if (name == "truncate") return OverLength::kTruncate;
  if (name == "split") return OverLength::kSplit;
  throw DataError("what to do with samples that are too long: \"" + std::string(name) +
                  "\"; expected error, drop, truncate or split");
}

void LengthReport::append(const LengthReport& later) {
  dropped.append(later.dropped);
  truncated.append(later.truncated);
  truncated_learned.append(later.truncated_learned);
  learned_tokens_lost += later.learned_tokens_lost;
  split.append(later.split);
  turns_dropped.append(later.turns_dropped);
}

LengthLimit::LengthLimit(const Harmony& harmony, LengthOptions options)
    : harmony_(harmony), tokens_(HarmonyTokens::of(harmony.tokenizer())), options_(options) {}

void LengthLimit::apply(RenderedSample sample, bool is_plain_text, const std::string& place,
                        std::vector<RenderedSample>& out, LengthReport& report) const {
  if (options_.max_length == 0 || size_of(sample) <= options_.max_length) {
    out.push_back(std::move(sample));
    return;
  }
  const std::string where = place + ": " + std::to_string(sample.tokens.size()) + " tokens";
  switch (options_.over_length) {
    case OverLength::kError:
      throw DataError(where + ", expected at most " + std::to_string(options_.max_length) +
                      "; drop, truncate or split what is longer, or allow more");
    case OverLength::kDrop:
      report.dropped.add(where);
      return;
    case OverLength::kTruncate:
      truncate(std::move(sample), where, out, report);
      return;
    case OverLength::kSplit: {
      const std::size_t before = out.size();
      is_plain_text ? split_text(sample, out) : split_conversation(sample, where, out, report);
      const std::size_t parts = out.size() - before;
      if (parts == 0) {
        report.dropped.add(where + ", no part fits in which something is learned");
      } else {
        report.split.add(where + " in " + std::to_string(parts) + (parts == 1 ? " part" : " parts"));
      }
      return;
    }
  }
}

void LengthLimit::truncate(RenderedSample sample, const std::string& where, std::vector<RenderedSample>& out,
                           LengthReport& report) const {
  const std::int64_t learned = learned_from(sample, 0), lost = learned_from(sample, options_.max_length);
  if (learned == lost && learned > 0) {
    report.dropped.add(where + ", nothing is learned in the first " + std::to_string(options_.max_length));
    return;
  }
  report.truncated.add(where);
  if (lost > 0) report.truncated_learned.add(where + ", lost " + std::to_string(lost) + " learned ones");
  report.learned_tokens_lost += lost;
  sample.tokens.resize(static_cast<std::size_t>(options_.max_length));
  sample.loss_weights.resize(static_cast<std::size_t>(options_.max_length));
  out.push_back(std::move(sample));
}

void LengthLimit::split_text(const RenderedSample& sample, std::vector<RenderedSample>& out) const {
  for (std::int64_t begin = 0; begin + 1 < size_of(sample); begin += options_.max_length - 1) {
    RenderedSample& part = out.emplace_back();
    append(sample, begin, std::min(begin + options_.max_length, size_of(sample)), part);
    part.loss_weights.front() = 0.0f;
  }
}

/// Where a conversation may be cut.
struct LengthLimit::Turns {
  std::int64_t head = 0;                                // tokens of the first system and developer messages
  std::vector<std::int64_t> begins;                     // of turns, and the end of the last
  std::vector<std::optional<std::int64_t>> final_ends;  // by turn: its last token, if it ends a final answer
};

LengthLimit::Turns LengthLimit::find_turns(const RenderedSample& sample) const {
  Turns turns;
  SegmentFinder finder(tokens_, sample.tokens);
  bool in_head = true, was_reply = false;
  Segment segment;
  while (finder.next(segment)) {
    const std::string role = header_of(harmony_.tokenizer(), tokens_, sample.tokens, segment).role;
    const bool is_instruction = role == "system" || role == "developer";
    in_head = in_head && is_instruction;
    if (in_head) {
      turns.head = segment.end;
      continue;
    }
    if (turns.begins.empty() || (was_reply && (is_instruction || role == "user"))) {
      turns.begins.push_back(segment.begin);
      turns.final_ends.emplace_back();
    }
    was_reply = role == "assistant" || role == "tool";
    const bool ends_answer = segment.kind == SegmentKind::kFinal && segment.end > segment.content_end;
    turns.final_ends.back() = ends_answer ? std::optional(segment.end - 1) : std::nullopt;
  }
  turns.begins.push_back(size_of(sample));
  return turns;
}

void LengthLimit::split_conversation(const RenderedSample& sample, const std::string& where,
                                     std::vector<RenderedSample>& out, LengthReport& report) const {
  const Turns turns = find_turns(sample);
  std::vector<RenderedSample> parts;  // the last first
  for (std::size_t end = turns.begins.size() - 1; end > 0;) {
    const auto fits = [&](std::size_t first) {
      return turns.head + turns.begins[end] - turns.begins[first] <= options_.max_length;
    };
    std::size_t first = end - 1;
    if (!fits(first)) {
      report.turns_dropped.add(where + ", turn " + std::to_string(end) + " alone has " +
                               std::to_string(turns.head + turns.begins[end] - turns.begins[first]));
      end = first;
      continue;
    }
    while (first > 0 && fits(first - 1)) --first;
    RenderedSample part;
    append(sample, 0, turns.head, part);
    append(sample, turns.begins[first], turns.begins[end], part);
    if (const auto last = turns.final_ends[end - 1];
        last && sample.tokens[static_cast<std::size_t>(*last)] == tokens_.end) {
      part.tokens.back() = harmony_.return_token();
    }
    parts.push_back(std::move(part));
    end = first;
  }
  std::reverse(parts.begin(), parts.end());
  bool is_first = true;
  for (RenderedSample& part : parts) {
    // What is learned of the head is learned once.
    if (!is_first) std::fill_n(part.loss_weights.begin(), turns.head, 0.0f);
    if (learned_from(part, 0) == 0) continue;
    is_first = false;
    out.push_back(std::move(part));
  }
}

}  // namespace ossature
