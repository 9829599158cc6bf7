#include "data/prepare/lint.h"

#include <algorithm>
#include <utility>

namespace ossature {
namespace {

struct Words {
  std::string_view name, explanation, advice;
};

constexpr std::array<Words, kNumLintKinds> kWords = {{
    {"nothing-learned", "No token of the sample is learned, so it costs time and teaches nothing.",
     "Check the roles, \"weight\" and \"train\" of its messages, and the weights by channel."},
    {"no-final",
     "The assistant never answers on the final channel, so the model does not learn to answer after it has thought or "
     "called.",
     "Put the answer into the content of a last message of the assistant."},
    {"empty-answer", "A message of the assistant is empty, so the model learns to say nothing.",
     "Fill it, leave the message out, or give it \"weight\": 0."},
    {"markup",
     "Content has markup such as <|end|>, which is learned letter by letter and not as the special token that it "
     "names.",
     "Remove it, or give text that is rendered already with --format harmony."},
    {"role-order",
     "Roles come in an order that no chat has: two of the user's or two answers in a row, or somebody else before the "
     "user.",
     "Join the messages, or see whether some are missing."},
    {"late-instructions",
     "A system or developer message comes after the conversation began, where the model rarely saw one.",
     "Put instructions into the first message."},
    {"unanswered-call", "A call has no result, and the conversation goes on as if it were not made.",
     "Add the result as a message of role tool, or remove the call."},
    {"result-without-call", "A tool gives a result that nobody asked for.",
     "Add the call before it, or remove the result."},
    {"ends-in-result", "The conversation ends in the result of a tool, after which nothing is learned.",
     "Add what the assistant says to it."},
    {"ends-in-user", "The conversation ends in a message of the user, after which nothing is learned.",
     "Add the answer, or remove the message."},
    {"no-system-message",
     "openai-harmony's conversation has no system message, which the model was trained to begin with.",
     "Add one with SystemContent."},
    {"dropped-thinking",
     "Thinking is left out of the sample, as it is at inference once an answer follows it, so it is not learned.",
     "Let --turns expand make a sample of each turn, with the thinking of that turn."},
    {"several-turns",
     "Several answers are learned in one sample, and all but the last are learned to end in <|end|>, where the model "
     "should write <|return|>.",
     "Let --turns expand make a sample of each turn, or learn the last with --turns last."},
    {"thinking-in-some",
     "Some conversations have thinking and others have none, so the model learns to think now and then.",
     "Add or remove it, or tell the two apart by \"reasoning_effort\"."},
    {"duplicate", "The same tokens came before, so they weigh double.", "Remove one, unless that is what you want."},
}};

class Findings {
 public:
  void add(LintKind kind) { result_.kinds |= 1u << static_cast<int>(kind); }
  SampleLint& result() { return result_; }

 private:
  SampleLint result_;
};

/// "<|" + letters + "|>", whatever it names.
bool has_markup(std::string_view text) {
  constexpr std::size_t kLongestName = 24;
  for (std::size_t at = text.find("<|"); at != std::string_view::npos; at = text.find("<|", at + 1)) {
    std::size_t end = at + 2;
    while (end < text.size() && end < at + 2 + kLongestName &&
           (text[end] == '_' || (text[end] >= 'a' && text[end] <= 'z') || (text[end] >= '0' && text[end] <= '9'))) {
      ++end;
    }
    if (end > at + 2 && text.substr(end, 2) == "|>") return true;
  }
  return false;
}

bool is_blank(std::string_view text) {
  return text.find_first_not_of(" \t\r\n") == std::string_view::npos;
}

std::string text_of(const Message& message) {
  std::string text = message.content.value_or("");
  for (const ContentPart& part : message.parts) {
    if (const auto* own = std::get_if<std::string>(&part)) text += *own;
    if (const auto* developer = std::get_if<DeveloperContent>(&part)) text += developer->instructions.value_or("");
  }
  return text;
}

void look_at_samples(const std::vector<RenderedSample>& rendered, Findings& findings) {
  bool is_learned = false;
  std::uint64_t hash = 0xcbf29ce484222325u;
  for (const RenderedSample& sample : rendered) {
    for (const std::int32_t token : sample.tokens) {
      hash = (hash ^ static_cast<std::uint32_t>(token)) * 0x9e3779b97f4a7c15u;
      hash ^= hash >> 29;
    }
    is_learned = is_learned ||
                 std::any_of(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0.0f; });
    if (sample.dropped_analysis > 0) findings.add(LintKind::kDroppedThinking);
  }
  if (!is_learned) findings.add(LintKind::kNothingLearned);
  findings.result().hash = hash;
}

/// Follows a conversation message by message.
class OrderChecker {
 public:
  explicit OrderChecker(Findings& findings) : findings_(findings) {}

  void add(const Message& message, bool is_call, bool is_answer) {
    if (message.role == "system" || message.role == "developer") {
      if (has_begun_) findings_.add(LintKind::kLateInstructions);
      return;
    }
    const bool is_first = !std::exchange(has_begun_, true);
    if (is_first && message.role != "user") findings_.add(LintKind::kRoleOrder);
    if (message.role == "user" && last_ == "user") findings_.add(LintKind::kRoleOrder);
    if (is_answer && was_answer_) findings_.add(LintKind::kRoleOrder);
    if (message.role == "tool") {
      if (num_open_calls_ == 0) findings_.add(LintKind::kResultWithoutCall);
      num_open_calls_ -= num_open_calls_ > 0 ? 1 : 0;
    }
    if (message.role == "user" || is_answer) {
      if (num_open_calls_ > 0) findings_.add(LintKind::kUnansweredCall);
      num_open_calls_ = 0;
    }
    if (is_call) ++num_open_calls_;
    num_answers_ += is_answer && message.weight > 0.0f ? 1 : 0;
    was_answer_ = is_answer;
    last_ = message.role;
  }

  /// Returns how many answers were learned.
  int finish() {
    if (last_ == "tool") findings_.add(LintKind::kEndsInResult);
    if (last_ == "user") findings_.add(LintKind::kEndsInUser);
    return num_answers_;
  }

 private:
  Findings& findings_;
  std::string_view last_;
  bool has_begun_ = false, was_answer_ = false;
  int num_open_calls_ = 0, num_answers_ = 0;
};

}  // namespace

std::string_view name_of(LintKind kind) {
  return kWords[static_cast<std::size_t>(kind)].name;
}

std::string_view explanation_of(LintKind kind) {
  return kWords[static_cast<std::size_t>(kind)].explanation;
}

std::string_view advice_of(LintKind kind) {
  return kWords[static_cast<std::size_t>(kind)].advice;
}

SampleLint lint(const Conversation& conversation, const std::vector<RenderedSample>& rendered,
                const HarmonyOptions& options) {
  Findings findings;
  OrderChecker order(findings);
  bool has_final = false, has_assistant = false, has_system = false;
  for (const Message& message : conversation.messages) {
    const bool is_assistant = message.role == "assistant";
    const bool is_call = is_assistant && (message.tool_call || !message.recipient.empty());
    const bool is_answer = is_assistant && !is_call &&
                           (message.channel == "final" || (message.channel.empty() && !conversation.is_harmony));
    const std::string text = text_of(message);
    const bool is_analysis = is_assistant && message.channel == "analysis";
    if (has_markup(text) || has_markup(message.thinking.value_or(""))) findings.add(LintKind::kMarkup);
    if (is_assistant && !is_call && is_blank(text)) findings.add(LintKind::kEmptyAnswer);
    if (!is_blank(message.thinking.value_or("")) || (is_analysis && !is_call)) findings.result().has_thinking = true;
    has_assistant = has_assistant || is_assistant;
    has_final = has_final || is_answer;
    has_system = has_system || message.role == "system";
    order.add(message, is_call, is_answer);
  }
  const int num_answers = order.finish();
  if (num_answers > 1 && options.learn.turns == LearnedTurns::kAll) findings.add(LintKind::kSeveralTurns);
  if (has_assistant && !has_final) findings.add(LintKind::kNoFinal);
  if (conversation.is_harmony && !has_system) findings.add(LintKind::kNoSystemMessage);
  findings.result().is_conversation = has_assistant;
  look_at_samples(rendered, findings);
  return findings.result();
}

SampleLint lint_text(std::string_view text, const RenderedSample& rendered) {
  Findings findings;
  if (has_markup(text)) findings.add(LintKind::kMarkup);
  look_at_samples({rendered}, findings);
  return findings.result();
}

SampleLint lint_harmony_text(std::string_view text, const std::vector<RenderedSample>& rendered) {
  Findings findings;
  const auto has = [text](std::string_view part) { return text.find(part) != std::string_view::npos; };
  if (!has("<|channel|>final")) findings.add(LintKind::kNoFinal);
  if (!has("<|start|>system")) findings.add(LintKind::kNoSystemMessage);
  findings.result().is_conversation = true;
  findings.result().has_thinking = has("<|channel|>analysis<|message|>");
  look_at_samples(rendered, findings);
  return findings.result();
}

void Lint::Tally::add(std::string_view source) {
  ++count;
  if (sources.size() < kSourcesShown) sources.emplace_back(source);
}

bool Lint::remember(std::uint64_t hash) {
  hash = std::max<std::uint64_t>(hash, 1);
  const auto slot_of = [this](std::uint64_t value) {
    std::size_t slot = value & (table_.size() - 1);
    while (table_[slot] != 0 && table_[slot] != value) slot = (slot + 1) & (table_.size() - 1);
    return slot;
  };
  if (num_remembered_ < kMostRemembered && 2 * (num_remembered_ + 1) > table_.size()) {
    std::vector<std::uint64_t> old(std::max<std::size_t>(2 * table_.size(), 1024), 0);
    old.swap(table_);
    for (const std::uint64_t value : old) {
      if (value != 0) table_[slot_of(value)] = value;
    }
  }
  std::uint64_t& slot = table_[slot_of(hash)];
  if (slot == hash) return true;
  if (num_remembered_ < kMostRemembered) {
    slot = hash;
    ++num_remembered_;
  }
  return false;
}

void Lint::add(const SampleLint& sample, std::string_view source) {
  for (std::size_t k = 0; k < kNumLintKinds; ++k) {
    if (sample.has(static_cast<LintKind>(k))) tallies_[k].add(source);
  }
  if (sample.is_conversation) (sample.has_thinking ? with_thinking_ : without_thinking_).add(source);
  if (remember(sample.hash)) tallies_[static_cast<std::size_t>(LintKind::kDuplicate)].add(source);
}

std::vector<LintFinding> Lint::findings() const {
  std::vector<LintFinding> result;
  for (std::size_t k = 0; k < kNumLintKinds; ++k) {
    const auto kind = static_cast<LintKind>(k);
    const Tally* tally = &tallies_[k];
    if (kind == LintKind::kThinkingInSome) {
      tally = with_thinking_.count < without_thinking_.count ? &with_thinking_ : &without_thinking_;
    }
    if (tally->count > 0) result.push_back({kind, tally->count, tally->sources});
  }
  return result;
}

}  // namespace ossature
