#include "train/chat/chat_session.h"

#include <algorithm>

#include <ATen/core/Tensor.h>

namespace ossature {

ChatSession::ChatSession(const Transformer& transformer, const Harmony& harmony, ChatSettings settings)
    : transformer_(transformer),
      harmony_(harmony),
      settings_(std::move(settings)),
      conversation_(settings_.conversation),
      generator_(settings_.seed),
      decoder_(transformer) {}

void ChatSession::reset() {
  conversation_ = settings_.conversation;
  generator_.seed(settings_.seed);
}

/// The template leaves an answered turn's thinking out of the next prompt, so what follows the last mark may have to
/// go.
at::Tensor ChatSession::feed(const std::vector<std::int32_t>& prompt) {
  const auto common = std::mismatch(fed_.begin(), fed_.end(), prompt.begin(), prompt.end()).first - fed_.begin();
  if (common < static_cast<std::ptrdiff_t>(fed_.size()) || fed_.size() >= prompt.size()) {
    const bool reaches_mark = common >= mark_.num_tokens && mark_.num_tokens < static_cast<std::int64_t>(prompt.size());
    if (!reaches_mark) mark_ = {};
    decoder_.rewind(mark_);
    fed_.resize(static_cast<std::size_t>(mark_.num_tokens));
  }
  prompt_tokens_ = static_cast<std::int64_t>(prompt.size());
  reused_tokens_ = static_cast<std::int64_t>(fed_.size());
  at::Tensor logits = decoder_.feed(std::span(prompt).subspan(fed_.size()));
  fed_ = prompt;
  mark_ = decoder_.mark();
  return logits;
}

Reply ChatSession::ask(const std::string& text, const std::function<bool(std::int32_t)>& hear) {
  conversation_.messages.push_back(user_message(text));
  const auto prompt = harmony_.render_prompt(conversation_);
  const auto room = transformer_.config().max_position_embeddings;
  if (static_cast<std::int64_t>(prompt.size()) >= room) {
    conversation_.messages.pop_back();
    throw DataError("the conversation has " + std::to_string(prompt.size()) +
                    " tokens with this message; the model's " + "max_position_embeddings is " + std::to_string(room) +
                    "; /reset begins a new one");
  }
  at::Tensor logits = feed(prompt);
  Reply reply = generate_reply(decoder_, std::move(logits), transformer_.config(), harmony_, settings_.sampling,
                               settings_.max_new_tokens, generator_, hear);
  fed_.insert(fed_.end(), reply.tokens.begin(), reply.tokens.end());
  fed_.resize(static_cast<std::size_t>(decoder_.num_tokens()));  // the last token was not fed

  Message answer;
  answer.role = "assistant";
  answer.content = content_of(parse_reply(harmony_.tokenizer(), reply.tokens), "final");
  has_kept_turn_ = !answer.content->empty();
  if (has_kept_turn_) {
    conversation_.messages.push_back(std::move(answer));
  } else {
    conversation_.messages.pop_back();
  }
  return reply;
}

}  // namespace ossature
