// The names under which the fields of training data are found.
#pragma once

#include <map>
#include <string>
#include <string_view>
#include <vector>

#include "data/data_error.h"

namespace ossature {

/// Fields of a record, of a message, and of a turn of sharegpt.
enum class Field {
  kMessages,
  kTools,
  kBuiltinTools,
  kReasoningEffort,
  kModelIdentity,
  kKnowledgeCutoff,
  kDate,
  kSystem,
  kInstruction,
  kInput,
  kOutput,
  kHistory,
  kPrompt,
  kCompletion,
  kText,
  kHarmony,
  kRole,
  kContent,
  kThinking,
  kToolCalls,
  kFunctionCall,
  kToolCallId,
  kName,
  kChannel,
  kRecipient,
  kContentType,
  kWeight,
  kTrain,
  kFrom,
  kValue,
};

/// Each field has a name of its own and perhaps others that data commonly have ("thinking", "reasoning_content",
/// "reasoning"); a mapped one has only the name that it was mapped to.
class FieldMap {
 public:
  FieldMap() = default;

  /// "content=text": what is called content here is called text in the data. Throws DataError for an assignment without
  /// a name on each side, an unknown field, or one that is mapped twice.
  void add(std::string_view assignment);

  /// The names to look for, the first that is there counts.
  [[nodiscard]] const std::vector<std::string>& names(Field field) const;

  /// How errors call the field: "content", or the name that it was mapped to.
  [[nodiscard]] const std::string& name(Field field) const { return names(field).front(); }

 private:
  std::map<Field, std::vector<std::string>> mapped_;
};

}  // namespace ossature
