#include "data/harmony/harmony.h"

#include <ctime>

#include "data/harmony/harmony_library.h"
#include "data/harmony/harmony_samples.h"
#include "data/harmony/harmony_template.h"
#include "data/harmony/harmony_text.h"

namespace ossature {

HarmonyRenderer harmony_renderer(std::string_view name) {
  if (name == "template") return HarmonyRenderer::kTemplate;
  if (name == "harmony") return HarmonyRenderer::kHarmony;
  throw DataError("renderer \"" + std::string(name) + "\"; expected template or harmony");
}

LearnedTurns learned_turns(std::string_view name) {
  if (name == "all") return LearnedTurns::kAll;
  if (name == "last") return LearnedTurns::kLast;
  if (name == "expand") return LearnedTurns::kExpand;
  throw DataError("turns \"" + std::string(name) + "\"; expected all, last or expand");
}

Harmony::Harmony(Tokenizer tokenizer, HarmonyOptions options)
    : encoder_(std::make_shared<const HarmonyEncoder>(std::move(tokenizer))), options_(std::move(options)) {
  if (options_.keep_analysis && is_template()) {
    throw DataError("the chat template drops the analysis of earlier turns; keep it with --renderer harmony");
  }
}

bool Harmony::is_template() const {
  return options_.renderer == HarmonyRenderer::kTemplate;
}

Harmony::Harmony(Tokenizer tokenizer, std::optional<std::string> date)
    : Harmony(std::move(tokenizer), HarmonyOptions{.date = std::move(date)}) {}

std::vector<HarmonyMessage> Harmony::messages_of(const Conversation& conversation) const {
  return is_template() ? template_messages(conversation, options_) : library_messages(conversation, options_);
}

std::vector<RenderedSample> Harmony::render(const Conversation& conversation) const {
  std::vector<HarmonyMessage> messages = messages_of(conversation);
  const Kept kept = is_template()            ? kept_by_template(messages)
                    : options_.keep_analysis ? Kept(messages.size(), true)
                                             : kept_for_last_turn(messages);
  const LearnOptions& learn = options_.learn;
  if (learn.turns == LearnedTurns::kExpand) {
    std::vector<RenderedSample> samples = turn_samples(messages, options_.keep_analysis, learn, *encoder_);
    if (!samples.empty()) return samples;
  }
  RenderedSample sample = whole_sample(messages, kept, learn, *encoder_);
  if (messages.back().is_final()) end_generation(sample, *encoder_);
  return {std::move(sample)};
}

std::vector<std::int32_t> Harmony::render_prompt(const Conversation& conversation) const {
  std::vector<HarmonyMessage> messages = messages_of(conversation);
  const Kept kept = options_.keep_analysis ? Kept(messages.size(), true) : kept_in_prompt(messages, messages.size());
  return prompt_tokens(messages, kept, *encoder_);
}

RenderedSample Harmony::render_text(const std::string& text) const {
  RenderedSample sample;
  sample.tokens = tokenizer().encode(text);
  sample.loss_weights.assign(sample.tokens.size(), 1.0f);
  if (!sample.loss_weights.empty()) sample.loss_weights[0] = 0.0f;
  return sample;
}

std::vector<RenderedSample> Harmony::render_harmony_text(std::string_view text) const {
  std::vector<HarmonyMessage> messages = read_harmony_text(text, *encoder_);
  if (options_.learn.turns == LearnedTurns::kExpand) {
    std::vector<RenderedSample> samples = turn_samples(messages, options_.keep_analysis, options_.learn, *encoder_);
    if (!samples.empty()) return samples;
  }
  return {whole_sample(messages, Kept(messages.size(), true), options_.learn, *encoder_)};
}

std::int32_t Harmony::return_token() const {
  return encoder_->return_;
}

std::int32_t Harmony::call_token() const {
  return encoder_->call;
}

const Tokenizer& Harmony::tokenizer() const {
  return encoder_->tokenizer();
}

std::string today() {
  const std::time_t now = std::time(nullptr);
  std::tm local{};
  localtime_r(&now, &local);
  char text[16];
  std::strftime(text, sizeof text, "%Y-%m-%d", &local);
  return text;
}

}  // namespace ossature
