// Renders conversations in the harmony format to tokens and loss weights, as gpt-oss's published chat template does or
// as OpenAI's library openai-harmony 0.0.8 does.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.h"
#include "data/harmony/conversation.h"
#include "data/tokenizer/tokenizer.h"

namespace ossature {

class HarmonyEncoder;
struct HarmonyMessage;

enum class HarmonyRenderer {
  kTemplate,  // the chat template that gpt-oss checkpoints carry: what transformers and most servers render with
  kHarmony,   // openai-harmony: channels, recipients and content types as the data gives them
};

enum class LearnedTurns {
  kAll,     // one sample a conversation, every turn of the assistant learned
  kLast,    // the same sample, only its last turn learned
  kExpand,  // one sample a turn: what the model is given for it, then the turn, learned
};

/// What is learned, and how much: factors from 0 up of the weights that the messages carry. What the model is given at
/// inference is never learned, whatever these say.
struct LearnOptions {
  LearnedTurns turns = LearnedTurns::kAll;
  // The assistant's messages, their stop tokens included.
  float analysis = 1.0f;
  float commentary = 1.0f;  // without a recipient: preambles
  float final = 1.0f;       // and messages without a channel
  float tool_calls = 1.0f;  // messages with a recipient, whatever their channel
  // What other roles write, from behind their header on: for models that play a user or a tool.
  float system = 0.0f;
  float developer = 0.0f;
  float user = 0.0f;
  float tool = 0.0f;
};

/// What a conversation does not say itself.
struct HarmonyOptions {
  HarmonyRenderer renderer = HarmonyRenderer::kTemplate;
  std::optional<std::string> date;  // "2026-01-15" in the system message; nullopt leaves its line out
  std::string knowledge_cutoff = "2024-06";
  std::string model_identity = "You are ChatGPT, a large language model trained by OpenAI.";
  std::string reasoning_effort = "medium";  // low | medium | high
  bool keep_analysis = false;               // of earlier turns too, where the renderer is kHarmony
  LearnOptions learn{};
};

/// "template" or "harmony"; "all", "last" or "expand". Throw DataError for another name.
[[nodiscard]] HarmonyRenderer harmony_renderer(std::string_view name);
[[nodiscard]] LearnedTurns learned_turns(std::string_view name);

/// Tokens and the weight of each as a target.
struct RenderedSample {
  std::vector<std::int32_t> tokens;
  std::vector<float> loss_weights;
  std::int64_t dropped_analysis = 0;  // messages of the assistant that would be learned, had they not been left out
  std::array<std::int64_t, 3> learned_by_channel{};  // learned tokens of analysis, commentary (and calls), final
};

class Harmony {
 public:
  /// Throws DataError if `tokenizer` lacks a special token of the format.
  Harmony(Tokenizer tokenizer, HarmonyOptions options);
  /// The chat template, with this date.
  Harmony(Tokenizer tokenizer, std::optional<std::string> date);

  /// A whole conversation for training: one sample, or with LearnedTurns::kExpand one for each turn in which something
  /// is learned (if there is none, one sample in which nothing is). Never empty. data/README.md has the rules of what
  /// is rendered and what is learned. Throws DataError where the renderer would refuse or silently drop something.
  [[nodiscard]] std::vector<RenderedSample> render(const Conversation& conversation) const;

  /// What the model is given to answer `conversation`: ends in "<|start|>assistant".
  [[nodiscard]] std::vector<std::int32_t> render_prompt(const Conversation& conversation) const;

  /// Plain text: every token but the first is learned.
  [[nodiscard]] RenderedSample render_text(const std::string& text) const;

  /// Text in the harmony format, its special tokens by their names: its messages are learned by the same options, and
  /// LearnedTurns::kExpand gives several samples. Never empty. Throws DataError, with the byte, for what is not in the
  /// format.
  [[nodiscard]] std::vector<RenderedSample> render_harmony_text(std::string_view text) const;

  /// "<|return|>" ends an answer, "<|call|>" a call: generation stops at either.
  [[nodiscard]] std::int32_t return_token() const;
  [[nodiscard]] std::int32_t call_token() const;
  [[nodiscard]] const Tokenizer& tokenizer() const;
  [[nodiscard]] const HarmonyOptions& options() const { return options_; }

 private:
  [[nodiscard]] bool is_template() const;
  [[nodiscard]] std::vector<HarmonyMessage> messages_of(const Conversation& conversation) const;

  std::shared_ptr<const HarmonyEncoder> encoder_;
  HarmonyOptions options_;
};

/// Today's date on this machine, "2026-01-15".
[[nodiscard]] std::string today();

}  // namespace ossature
