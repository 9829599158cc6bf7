// Which messages of a conversation become samples, and what of them is learned. Internal to data/.
#pragma once

#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/harmony_encoder.h"

namespace ossature {

/// What the assistant says without being interrupted: messages `begin` up to `end`, results of its calls among them. It
/// begins with a message of the assistant and ends with one: with its first final answer, if there is one.
struct Turn {
  std::size_t begin, end;
};
[[nodiscard]] std::vector<Turn> turns_of(const std::vector<HarmonyMessage>& messages);

/// True for each message that is rendered.
using Kept = std::vector<bool>;

/// What the model is given at inference to go on after the messages before `end`: all of them but the analysis
/// (whoever's) before the last final answer.
[[nodiscard]] Kept kept_in_prompt(const std::vector<HarmonyMessage>& messages, std::size_t end);

/// The same for the last turn of the assistant, which keeps its own analysis.
[[nodiscard]] Kept kept_for_last_turn(const std::vector<HarmonyMessage>& messages);

/// What the model is given to go on after all `messages`: those of `kept`, then "<|start|>assistant".
[[nodiscard]] std::vector<std::int32_t> prompt_tokens(std::vector<HarmonyMessage>& messages, const Kept& kept,
                                                      const HarmonyEncoder& encoder);

/// `messages` as one sample, those of `kept`; all turns of the assistant are learned, or the last one. An answer at the
/// end keeps its "<|end|>".
[[nodiscard]] RenderedSample whole_sample(std::vector<HarmonyMessage>& messages, const Kept& kept,
                                          const LearnOptions& learn, const HarmonyEncoder& encoder);

/// Lets the answer at the end of `sample` end in "<|return|>".
void end_generation(RenderedSample& sample, const HarmonyEncoder& encoder);

/// One sample for each turn in which something is learned: what the model is given, then the turn.
[[nodiscard]] std::vector<RenderedSample> turn_samples(std::vector<HarmonyMessage>& messages, bool keep_analysis,
                                                       const LearnOptions& learn, const HarmonyEncoder& encoder);

}  // namespace ossature
