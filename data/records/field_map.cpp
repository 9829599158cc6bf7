#include "data/records/field_map.h"

#include <algorithm>
#include <array>

namespace ossature {
namespace {

struct Names {
  Field field;
  std::vector<std::string> names;
};

/// In the order of the enumeration.
const std::vector<Names>& table() {
  static const std::vector<Names> names = {
      {Field::kMessages, {"messages", "conversations", "conversation"}},
      {Field::kTools, {"tools", "functions"}},
      {Field::kBuiltinTools, {"builtin_tools"}},
      {Field::kReasoningEffort, {"reasoning_effort"}},
      {Field::kModelIdentity, {"model_identity"}},
      {Field::kKnowledgeCutoff, {"knowledge_cutoff"}},
      {Field::kDate, {"date"}},
      {Field::kSystem, {"system", "system_prompt"}},
      {Field::kInstruction, {"instruction"}},
      {Field::kInput, {"input", "context"}},
      {Field::kOutput, {"output", "response"}},
      {Field::kHistory, {"history"}},
      {Field::kPrompt, {"prompt", "question", "query"}},
      {Field::kCompletion, {"completion", "response", "answer"}},
      {Field::kText, {"text"}},
      {Field::kHarmony, {"harmony"}},
      {Field::kRole, {"role"}},
      {Field::kContent, {"content"}},
      {Field::kThinking, {"thinking", "reasoning_content", "reasoning"}},
      {Field::kToolCalls, {"tool_calls"}},
      {Field::kFunctionCall, {"function_call"}},
      {Field::kToolCallId, {"tool_call_id"}},
      {Field::kName, {"name"}},
      {Field::kChannel, {"channel"}},
      {Field::kRecipient, {"recipient"}},
      {Field::kContentType, {"content_type"}},
      {Field::kWeight, {"weight"}},
      {Field::kTrain, {"train"}},
      {Field::kFrom, {"from"}},
      {Field::kValue, {"value"}},
  };
  return names;
}

}  // namespace

void FieldMap::add(std::string_view assignment) {
  const std::size_t equals = assignment.find('=');
  const std::string field(assignment.substr(0, equals));
  const std::string name(equals == std::string_view::npos ? "" : assignment.substr(equals + 1));
  if (field.empty() || name.empty()) {
    throw DataError("\"" + std::string(assignment) +
                    "\" maps no field; expected field=name, such as messages=dialogue");
  }
  const auto row = std::find_if(table().begin(), table().end(), [&](const Names& names) {
    return std::find(names.names.begin(), names.names.end(), field) != names.names.end();
  });
  if (row == table().end()) {
    std::string all;
    for (const Names& names : table()) all += (all.empty() ? "" : ", ") + names.names.front();
    throw DataError("\"" + field + "\" is no field; expected one of " + all);
  }
  const auto [at, is_new] = mapped_.emplace(row->field, std::vector{name});
  if (!is_new) {
    throw DataError("the field " + row->names.front() + " is mapped to both " + at->second.front() + " and " + name +
                    "; map it once");
  }
}

const std::vector<std::string>& FieldMap::names(Field field) const {
  const auto mapped = mapped_.find(field);
  return mapped != mapped_.end() ? mapped->second : table()[static_cast<std::size_t>(field)].names;
}

}  // namespace ossature
