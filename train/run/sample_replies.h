// What the model under training answers to evaluation.sample_prompts, as it goes: RUN/samples.jsonl, a line a prompt
// and evaluation: {"step": 40, "prompt": "...", "reply": [{"channel": "final", "content": "..."}], "finish": "return",
// "tokens": 17}. A message that calls a tool has its "recipient" too.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "data/harmony/harmony.h"
#include "data/harmony/harmony_reply.h"
#include "model/network/transformer.h"
#include "train/recipe/recipe.h"
#include "train/run/step_log.h"

namespace ossature {

struct SampleReply {
  std::int64_t step = 0;  // steps done; 0 for the untrained model
  std::string prompt;
  std::vector<GeneratedMessage> messages;
  std::string finish;  // "return" | "call" | "length"
  std::int64_t tokens = 0;
};

/// The prompts of a run. Replies take the most probable token, so they are a function of the weights alone: no date is
/// in the prompt, and the run's random numbers are not touched.
class SamplePrompts {
 public:
  /// Throws DataError if base_model has no tokenizer that fits the model, or a prompt leaves no room for a reply.
  SamplePrompts(const Recipe& recipe, const ModelConfig& config);

  [[nodiscard]] std::size_t size() const { return prompts_.size(); }
  /// nullopt if `goes_on`, which is asked after each token, said no.
  [[nodiscard]] std::optional<SampleReply> answer(std::size_t i, const Transformer& transformer, std::int64_t step,
                                                  const std::function<bool()>& goes_on) const;

 private:
  std::vector<std::string> prompts_;
  std::vector<std::vector<std::int32_t>> tokens_;
  std::int64_t max_new_tokens_;
  Harmony harmony_;
};

/// The line of samples.jsonl.
[[nodiscard]] std::string log_line(const SampleReply& reply);

/// In the order of the file; what is no whole line of it is passed over. Empty if there is none.
[[nodiscard]] std::vector<SampleReply> read_sample_replies(const std::filesystem::path& run_dir);

/// "step 12/340  \"What is ...\": The answer ...", of at most `width` characters; text cannot act on a terminal. What
/// the model says in the channel "final", or if it says nothing there, its messages one after another.
[[nodiscard]] std::string progress_line(const SampleReply& reply, std::int64_t total_steps, std::size_t width = 120);

}  // namespace ossature
