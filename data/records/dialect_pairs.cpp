// The dialects of a question and its answer.
#include <utility>

#include "data/records/dialects.h"

namespace ossature {
namespace {

Message read_answer(const JsonFields& record, Field field, const char* expected) {
  Message message = make_message("assistant", record.text(field, expected));
  message.thinking = record.optional_text(Field::kThinking);
  return message;
}

/// LLaMA-Factory's earlier turns: [["question", "answer"], ...].
void read_history(const JsonFields& record, std::vector<Message>& messages) {
  const Json* history = record.find(Field::kHistory);
  if (history == nullptr) return;
  constexpr const char* kExpected = R"(a list of ["question", "answer"])";
  if (!history->is_array()) record.refuse(Field::kHistory, kExpected);
  for (std::size_t i = 0; i < history->size(); ++i) {
    const Json& pair = (*history)[i];
    if (!pair.is_array() || pair.size() != 2 || !pair[0].is_string() || !pair[1].is_string()) {
      record.fail(record.map().name(Field::kHistory) + "[" + std::to_string(i) + "] is " + describe(pair) +
                  "; expected " + kExpected);
    }
    messages.push_back(make_message("user", pair[0].get<std::string>()));
    messages.push_back(make_message("assistant", pair[1].get<std::string>()));
  }
}

}  // namespace

Conversation read_alpaca(const JsonFields& record) {
  Conversation conversation;
  read_history(record, conversation.messages);
  std::string question = record.text(Field::kInstruction);
  const std::string input = record.optional_text(Field::kInput).value_or("");
  if (!input.empty()) question += (question.empty() ? "" : "\n\n") + input;
  conversation.messages.push_back(make_message("user", std::move(question)));
  conversation.messages.push_back(read_answer(record, Field::kOutput, "a string"));
  read_settings(record, conversation);
  return conversation;
}

Conversation read_prompt_completion(const JsonFields& record) {
  constexpr const char* kExpected = "a string or a list of messages";
  Conversation conversation;
  const Json* prompt = record.find(Field::kPrompt);
  const Json* completion = record.find(Field::kCompletion);
  if (prompt != nullptr && prompt->is_array()) {
    conversation.messages = read_message_list(record, Field::kPrompt, "prompt message");
    for (Message& message : conversation.messages) message.weight = 0.0f;
  } else {
    conversation.messages.push_back(make_message("user", record.text(Field::kPrompt, kExpected)));
  }
  if (completion != nullptr && completion->is_array()) {
    for (Message& message : read_message_list(record, Field::kCompletion, "completion message")) {
      conversation.messages.push_back(std::move(message));
    }
  } else {
    conversation.messages.push_back(read_answer(record, Field::kCompletion, kExpected));
  }
  read_settings(record, conversation);
  return conversation;
}

}  // namespace ossature
