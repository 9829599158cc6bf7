#include "data/records/formats.h"

#include <array>
#include <stdexcept>
#include <utility>

#include "data/harmony/harmony_conversation.h"
#include "data/records/dialects.h"

namespace ossature {
namespace {

struct FormatName {
  DataFormat format;
  const char* name;
};

/// In the order in which they are tried: of a record that has "messages" beside "prompt", or "instruction" beside
/// "text", the former is the sample.
constexpr std::array kFormats = {
    FormatName{DataFormat::kMessages, "messages"},
    FormatName{DataFormat::kShareGpt, "sharegpt"},
    FormatName{DataFormat::kHarmony, "harmony"},
    FormatName{DataFormat::kAlpaca, "alpaca"},
    FormatName{DataFormat::kPromptCompletion, "prompt-completion"},
    FormatName{DataFormat::kText, "text"},
};

std::string name_of(DataFormat format) {
  for (const FormatName& known : kFormats) {
    if (known.format == format) return known.name;
  }
  throw std::logic_error("unknown format");
}

bool is_rendered(std::string_view text) {
  return text.starts_with("<|start|>");
}

/// Whether the elements are turns of sharegpt rather than messages.
bool has_turns(const Json& list, const FieldMap& map) {
  if (!list.is_array() || list.empty() || !list[0].is_object()) return false;
  const JsonFields first(list[0], map, "");
  return !first.has(Field::kRole) && (first.has(Field::kFrom) || first.has(Field::kValue));
}

/// Whether a record has what tells the dialect; its values may still be wrong.
bool matches(const JsonFields& record, DataFormat format) {
  const Json* messages = record.find(Field::kMessages);
  const Json* text = record.find(Field::kText);
  const bool text_is_rendered =
      text != nullptr && text->is_string() && is_rendered(text->get_ref<const std::string&>());
  switch (format) {
    case DataFormat::kMessages:
      return messages != nullptr && !has_turns(*messages, record.map());
    case DataFormat::kShareGpt:
      return messages != nullptr && has_turns(*messages, record.map());
    case DataFormat::kAlpaca:
      return record.has(Field::kInstruction) && record.has(Field::kOutput);
    case DataFormat::kPromptCompletion:
      return record.has(Field::kPrompt) && record.has(Field::kCompletion);
    case DataFormat::kText:
      return text != nullptr && !text_is_rendered;
    case DataFormat::kHarmony:
      return record.has(Field::kHarmony) || text_is_rendered;
  }
  return false;
}

std::optional<DataFormat> detect_format(const JsonFields& record) {
  for (const FormatName& known : kFormats) {
    if (matches(record, known.format)) return known.format;
  }
  return std::nullopt;
}

[[noreturn]] void fail_to_detect(const JsonFields& record) {
  const auto name = [&](Field field) { return "\"" + record.map().name(field) + "\""; };
  const bool is_preference = record.object().contains("chosen") && record.object().contains("rejected");
  record.fail("no known dialect; found the keys " + keys_of(record.object()) + "; expected " + name(Field::kMessages) +
              ", \"conversations\", " + name(Field::kInstruction) + " and " + name(Field::kOutput) + ", " +
              name(Field::kPrompt) + " and " + name(Field::kCompletion) + ", " + name(Field::kText) + " or " +
              name(Field::kHarmony) + "; " +
              (is_preference ? "of preference pairs the chosen answer is learned with --map completion=chosen"
                             : "other names can be mapped: --map messages=dialogue"));
}

Sample read_as(const JsonFields& record, DataFormat format) {
  switch (format) {
    case DataFormat::kMessages:
      return is_harmony_conversation(record.object()) ? harmony_conversation_of(record.object())
                                                      : read_messages(record);
    case DataFormat::kShareGpt:
      return read_sharegpt(record);
    case DataFormat::kAlpaca:
      return read_alpaca(record);
    case DataFormat::kPromptCompletion:
      return read_prompt_completion(record);
    case DataFormat::kText:
      return record.text(Field::kText);
    case DataFormat::kHarmony:
      return HarmonyText{record.text(record.has(Field::kHarmony) ? Field::kHarmony : Field::kText)};
  }
  throw std::logic_error("unknown format");
}

Json parse_record(std::string_view text, std::int64_t line = 1, std::int64_t column = 1) {
  Json json;
  try {
    json = parse_json(text, line, column);
  } catch (const DataError& error) {
    // A line that is only the beginning of an object: one written over several lines.
    const bool is_begun = text.find_first_not_of("{[ \t") == std::string_view::npos;
    throw DataError(error.what() + std::string("; expected one JSON object a line") +
                    (is_begun ? " or an array of them; jq -c . joins the lines of an object" : ""));
  }
  if (!json.is_object()) {
    throw DataError(describe(json) + ", not a JSON object; expected one a line, such as {\"messages\": [...]}");
  }
  return json;
}

}  // namespace

std::optional<DataFormat> data_format(std::string_view name) {
  if (name == "auto") return std::nullopt;
  std::string expected = "auto";
  for (const FormatName& known : kFormats) {
    if (name == known.name) return known.format;
    expected += std::string(", ") + known.name;
  }
  throw DataError("format \"" + std::string(name) + "\"; expected one of " + expected);
}

SampleParser::SampleParser(FormatOptions options) : options_(std::move(options)) {}

void SampleParser::detect(const std::vector<Record>& records) {
  if (options_.format) return;
  for (const Record& record : records) {
    if (record.is_plain_text || !record.error.empty() || detected_.count(record.file) > 0) continue;
    try {
      const Json json = parse_record(record.text);
      if (const auto format = detect_format(JsonFields(json, options_.fields, ""))) {
        detected_.emplace(record.file, Detected{*format, record.line});
      }
    } catch (const DataError&) {
      // parse() says what is wrong with it.
    }
  }
}

Sample SampleParser::parse_text_record(const Record& record) const {
  const DataFormat format =
      options_.format.value_or(is_rendered(record.text) ? DataFormat::kHarmony : DataFormat::kText);
  if (format == DataFormat::kText) return record.text;
  if (format == DataFormat::kHarmony) return HarmonyText{record.text};
  throw DataError("a text file; expected JSON lines or a JSON array of " + name_of(format) +
                  ": leave --format out for plain text, or name the file .jsonl");
}

Sample SampleParser::parse_json_record(const Record& record) const {
  const Json json = parse_record(record.text, record.line, record.column);
  const JsonFields fields(json, options_.fields, "");
  if (options_.format) return read_as(fields, *options_.format);
  const auto detected = detected_.find(record.file);
  if (detected == detected_.end() || !matches(fields, detected->second.format)) {
    const auto own = detect_format(fields);
    if (!own && (detected == detected_.end() || detected->second.line == record.line)) fail_to_detect(fields);
    if (own && detected != detected_.end()) {
      throw DataError("a record of " + name_of(*own) + " (found: " + keys_of(json) + ") in a file of " +
                      name_of(detected->second.format) + ", which is what line " +
                      std::to_string(detected->second.line) +
                      " is; expected one dialect a file: split it, or give --format");
    }
    if (own) return read_as(fields, *own);
  }
  return read_as(fields, detected->second.format);
}

Sample SampleParser::parse(const Record& record) const {
  try {
    if (!record.error.empty()) throw DataError(record.error);
    return record.is_plain_text ? parse_text_record(record) : parse_json_record(record);
  } catch (const DataError& error) {
    throw DataError(record.place() + ": " + error.what());
  }
}

Sample parse_sample(std::string_view json, const FormatOptions& options) {
  const Json value = parse_record(json);
  const JsonFields record(value, options.fields, "");
  const auto format = options.format ? options.format : detect_format(record);
  if (!format) fail_to_detect(record);
  return read_as(record, *format);
}

}  // namespace ossature
