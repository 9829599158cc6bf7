// The dialects of training data: records -> samples.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <variant>
#include <vector>

#include "data/data_error.h"
#include "data/harmony/conversation.h"
#include "data/records/field_map.h"
#include "data/records/records.h"

namespace ossature {

enum class DataFormat {
  kMessages,          // {"messages": [{"role": ..., "content": ...}], "tools": [...], "reasoning_effort": ...}
  kShareGpt,          // {"conversations": [{"from": "human", "value": ...}, {"from": "gpt", "value": ...}]}
  kAlpaca,            // {"instruction": "...", "input": "...", "output": "..."}
  kPromptCompletion,  // {"prompt": "...", "completion": "..."}: the user's question and its answer; or lists of
                      // messages
  kText,              // {"text": "..."}, or a text file: plain text, learned whole
  kHarmony,           // {"harmony": "<|start|>..."}, or such a "text" or text file: rendered already
};

/// The format of that name ("messages", "sharegpt", "alpaca", "prompt-completion", "text", "harmony"); nullopt for
/// "auto". Throws DataError for another name.
[[nodiscard]] std::optional<DataFormat> data_format(std::string_view name);

/// Text that is rendered in harmony's markup already, special tokens and all.
struct HarmonyText {
  std::string text;
};

/// A sample before it is rendered: a conversation, plain text, or rendered text.
using Sample = std::variant<Conversation, std::string, HarmonyText>;

struct FormatOptions {
  std::optional<DataFormat> format = std::nullopt;  // nullopt: the first record of each file tells
  FieldMap fields = {};
};

/// Turns records into samples. Which keys each dialect takes stands in data/README.md; other keys are not looked at.
/// Text files are text, or harmony if they begin with "<|start|>".
class SampleParser {
 public:
  explicit SampleParser(FormatOptions options = {});

  /// To be called with the records in their order, and before they are parsed, but not while others are: finds the
  /// dialect of each file that is new. A file has one dialect, that of its first record that has any; one in another is
  /// an error.
  void detect(const std::vector<Record>& records);

  /// Throws DataError "file:line: ..." saying what is wrong with the record. Any number of threads may parse at once.
  [[nodiscard]] Sample parse(const Record& record) const;

 private:
  /// What the first record of a file said.
  struct Detected {
    DataFormat format;
    std::int64_t line;
  };

  [[nodiscard]] Sample parse_json_record(const Record& record) const;
  [[nodiscard]] Sample parse_text_record(const Record& record) const;

  FormatOptions options_;
  std::unordered_map<std::string, Detected> detected_;  // by file
};

/// One JSON text as a sample, its dialect told by its keys unless the options give one. Throws DataError without a
/// place.
[[nodiscard]] Sample parse_sample(std::string_view json, const FormatOptions& options = {});

}  // namespace ossature
