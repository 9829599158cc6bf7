#include "data/harmony/harmony_samples.h"

#include <algorithm>

namespace ossature {
namespace {

float factor_of(const HarmonyMessage& message, const LearnOptions& learn) {
  switch (message.role) {
    case HarmonyRole::kSystem:
      return learn.system;
    case HarmonyRole::kDeveloper:
      return learn.developer;
    case HarmonyRole::kUser:
      return learn.user;
    case HarmonyRole::kTool:
      return learn.tool;
    case HarmonyRole::kAssistant:
      break;
  }
  if (message.is_call) return learn.tool_calls;
  if (message.is_analysis()) return learn.analysis;
  return message.channel.empty() || message.channel == "final" ? learn.final : learn.commentary;
}

/// Puts messages after one another into a sample.
class SampleWriter {
 public:
  SampleWriter(const LearnOptions& learn, const HarmonyEncoder& encoder) : learn_(learn), encoder_(encoder) {}

  void add(HarmonyMessage& message, bool is_learned) {
    encoder_.encode(message);
    const float weight = is_learned ? message.weight * factor_of(message, learn_) : 0.0f;
    sample_.tokens.insert(sample_.tokens.end(), message.tokens.begin(), message.tokens.end());
    const std::size_t first = sample_.loss_weights.size();
    sample_.loss_weights.resize(sample_.tokens.size(), weight);
    // Generation goes on after "<|end|>" alone, and then the model writes the header too.
    const bool is_header_generated = message.is_assistant() && goes_on_;
    if (!is_header_generated) {
      std::fill_n(sample_.loss_weights.begin() + static_cast<std::ptrdiff_t>(first), message.num_header, 0.0f);
    }
    goes_on_ = message.is_assistant() && !message.is_call && !message.is_final();
    if (weight > 0.0f) {
      const std::size_t channel = message.is_analysis() ? 0 : message.is_final() ? 2 : 1;
      sample_.learned_by_channel[channel] +=
          static_cast<std::int64_t>(message.tokens.size() - (is_header_generated ? 0 : message.num_header));
    }
  }

  void drop(const HarmonyMessage& message) {
    if (message.is_assistant() && message.weight * factor_of(message, learn_) > 0.0f) ++sample_.dropped_analysis;
  }

  [[nodiscard]] RenderedSample take() { return std::move(sample_); }

 private:
  const LearnOptions& learn_;
  const HarmonyEncoder& encoder_;
  RenderedSample sample_;
  bool goes_on_ = false;
};

bool is_anything_learned(const RenderedSample& sample) {
  return std::any_of(sample.loss_weights.begin(), sample.loss_weights.end(), [](float w) { return w > 0.0f; });
}

}  // namespace

std::vector<Turn> turns_of(const std::vector<HarmonyMessage>& messages) {
  std::vector<Turn> turns;
  for (std::size_t i = 0; i < messages.size();) {
    if (!messages[i].is_assistant()) {
      ++i;
      continue;
    }
    Turn turn{i, i + 1};
    for (; i < messages.size() && (messages[i].is_assistant() || messages[i].role == HarmonyRole::kTool); ++i) {
      if (messages[i].is_assistant()) turn.end = i + 1;
      if (messages[i].is_final()) {
        ++i;
        break;
      }
    }
    turns.push_back(turn);
  }
  return turns;
}

Kept kept_in_prompt(const std::vector<HarmonyMessage>& messages, std::size_t end) {
  std::size_t last_final = end;
  while (last_final > 0 && !messages[last_final - 1].is_final()) --last_final;
  Kept kept(messages.size(), true);
  for (std::size_t i = 0; i < last_final; ++i) kept[i] = !messages[i].is_analysis();
  return kept;
}

Kept kept_for_last_turn(const std::vector<HarmonyMessage>& messages) {
  const std::vector<Turn> turns = turns_of(messages);
  return kept_in_prompt(messages, turns.empty() ? messages.size() : turns.back().begin);
}

std::vector<std::int32_t> prompt_tokens(std::vector<HarmonyMessage>& messages, const Kept& kept,
                                        const HarmonyEncoder& encoder) {
  std::vector<std::int32_t> tokens;
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (!kept[i]) continue;
    encoder.encode(messages[i]);
    tokens.insert(tokens.end(), messages[i].tokens.begin(), messages[i].tokens.end());
  }
  tokens.push_back(encoder.start);
  encoder.tokenizer().encode("assistant", tokens);
  return tokens;
}

RenderedSample whole_sample(std::vector<HarmonyMessage>& messages, const Kept& kept, const LearnOptions& learn,
                            const HarmonyEncoder& encoder) {
  std::size_t first_learned = 0;
  if (learn.turns == LearnedTurns::kLast) {
    if (const auto turns = turns_of(messages); turns.size() > 1) first_learned = turns[turns.size() - 2].end;
  }
  SampleWriter writer(learn, encoder);
  for (std::size_t i = 0; i < messages.size(); ++i) {
    if (kept[i]) {
      writer.add(messages[i], i >= first_learned);
    } else if (i >= first_learned) {
      writer.drop(messages[i]);
    }
  }
  return writer.take();
}

void end_generation(RenderedSample& sample, const HarmonyEncoder& encoder) {
  sample.tokens.back() = encoder.return_;
}

std::vector<RenderedSample> turn_samples(std::vector<HarmonyMessage>& messages, bool keep_analysis,
                                         const LearnOptions& learn, const HarmonyEncoder& encoder) {
  std::vector<RenderedSample> samples;
  std::size_t end_of_previous = 0;
  for (const Turn& turn : turns_of(messages)) {
    const Kept kept = keep_analysis ? Kept(messages.size(), true) : kept_in_prompt(messages, turn.begin);
    SampleWriter writer(learn, encoder);
    for (std::size_t i = 0; i < turn.end; ++i) {
      if (kept[i]) writer.add(messages[i], i >= end_of_previous);
    }
    end_of_previous = turn.end;
    RenderedSample sample = writer.take();
    if (messages[turn.end - 1].is_final()) end_generation(sample, encoder);
    if (is_anything_learned(sample)) samples.push_back(std::move(sample));
  }
  return samples;
}

}  // namespace ossature
