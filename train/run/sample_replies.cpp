#include "train/run/sample_replies.h"

#include <nlohmann/json.hpp>

#include "train/chat/model_tokenizer.h"
#include "train/chat/reply.h"
#include "train/run/log_line.h"
#include "train/text/visible_text.h"

namespace ossature {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::ordered_json;

Harmony harmony_of(const Recipe& recipe, const ModelConfig& config) {
  Tokenizer tokenizer = tokenizer_of(recipe.base_model);
  if (tokenizer.vocab_size() > config.vocab_size) {
    throw DataError(recipe.base_model.string() + ": its tokenizer has " + std::to_string(tokenizer.vocab_size()) +
                    " ids, but the model only " + std::to_string(config.vocab_size) +
                    "; evaluation.sample_prompts needs the model's own tokenizer");
  }
  return {std::move(tokenizer), std::nullopt};
}

/// The first characters of `text`, of which each is a column; "..." where some are left out.
std::string cut(const std::string& text, std::size_t width) {
  std::size_t columns = 0, fits = 0;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if ((static_cast<unsigned char>(text[i]) & 0xc0) == 0x80) continue;
    if (columns + 3 <= width) fits = i;  // where dots would still fit
    ++columns;
  }
  return columns <= width ? text : text.substr(0, fits) + "...";
}

}  // namespace

SamplePrompts::SamplePrompts(const Recipe& recipe, const ModelConfig& config)
    : prompts_(recipe.evaluation.sample_prompts),
      max_new_tokens_(recipe.evaluation.sample_tokens),
      harmony_(harmony_of(recipe, config)) {
  for (const std::string& prompt : prompts_) {
    Conversation conversation;
    conversation.messages.push_back(user_message(prompt));
    tokens_.push_back(harmony_.render_prompt(conversation));
    const auto size = static_cast<std::int64_t>(tokens_.back().size());
    if (size >= config.max_position_embeddings) {
      throw DataError("evaluation.sample_prompts: \"" + cut(visible_line(prompt), 40) + "\" is " +
                      std::to_string(size) + " tokens; the model's max_position_embeddings is " +
                      std::to_string(config.max_position_embeddings));
    }
  }
}

std::optional<SampleReply> SamplePrompts::answer(std::size_t i, const Transformer& transformer, std::int64_t step,
                                                 const std::function<bool()>& goes_on) const {
  std::mt19937_64 unused;  // the most probable token needs none
  Decoder decoder(transformer);
  at::Tensor logits = decoder.feed(tokens_[i]);
  bool is_whole = true;
  const Reply reply = generate_reply(decoder, std::move(logits), transformer.config(), harmony_, {}, max_new_tokens_,
                                     unused, [&](std::int32_t) { return is_whole = goes_on(); });
  if (!is_whole) return std::nullopt;
  return SampleReply{step, prompts_[i], parse_reply(harmony_.tokenizer(), reply.tokens), reply.finish,
                     static_cast<std::int64_t>(reply.tokens.size())};
}

std::string log_line(const SampleReply& reply) {
  Json messages = Json::array();
  for (const GeneratedMessage& message : reply.messages) {
    Json object = {{"channel", message.channel}};
    if (!message.recipient.empty()) object["recipient"] = message.recipient;
    object["content"] = message.content;
    messages.push_back(std::move(object));
  }
  const Json line = {{"step", reply.step},
                     {"prompt", reply.prompt},
                     {"reply", std::move(messages)},
                     {"finish", reply.finish},
                     {"tokens", reply.tokens}};
  return line.dump(-1, ' ', false, Json::error_handler_t::replace);
}

std::vector<SampleReply> read_sample_replies(const fs::path& run_dir) {
  std::vector<SampleReply> replies;
  for_each_log_line(run_dir / "samples.jsonl", [&](const nlohmann::json& line) {
    if (!line.contains("reply") || !line["reply"].is_array()) return;
    SampleReply reply{
        log_count(line, "step"), log_text(line, "prompt"), {}, log_text(line, "finish"), log_count(line, "tokens")};
    for (const auto& message : line["reply"])
      if (message.is_object())
        reply.messages.push_back(
            {log_text(message, "channel"), log_text(message, "recipient"), log_text(message, "content"), true});
    replies.push_back(std::move(reply));
  });
  return replies;
}

std::string progress_line(const SampleReply& reply, std::int64_t total_steps, std::size_t width) {
  std::string said = content_of(reply.messages, "final");
  if (said.empty()) {
    for (const GeneratedMessage& message : reply.messages) said += message.content;
  }
  const std::string step = "step " + std::to_string(reply.step) + "/" + std::to_string(total_steps) + "  \"";
  const std::string line = step + cut(visible_line(reply.prompt), 40) + "\": " + visible_line(said);
  return cut(line, width);
}

}  // namespace ossature
