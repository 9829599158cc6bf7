#include "data/harmony_tools.h"

#include <algorithm>

#include "data/data_error.h"
#include "data/python_json.h"

// The layout below, line breaks and indents that look like accidents included, is what the published template gives: the model was
// trained on it.

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

/// The member, or null.
Json get(const Json& object, const char* key) { return object.is_object() ? object.value(key, Json()) : Json(); }

/// Python's truth of a value.
bool holds(const Json& value) {
  if (value.is_null()) return false;
  if (value.is_boolean()) return value.get<bool>();
  if (value.is_string()) return !value.get_ref<const std::string&>().empty();
  if (value.is_number()) return value.get<double>() != 0.0;
  return !value.empty();
}

/// str(value) of Python.
std::string text_of(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  return value.is_null() ? "None" : python_json(value);
}

std::string string_of(const Json& value, const char* what) {
  if (!value.is_string()) throw DataError(std::string("tools: ") + what + " is not a string");
  return value.get<std::string>();
}

std::string joined(const Json& list, const std::string& separator) {
  std::string text;
  for (const Json& part : list) text += (text.empty() ? "" : separator) + text_of(part);
  return text;
}

bool contains(const Json& list, const std::string& name) {
  return list.is_array() && std::find(list.begin(), list.end(), Json(name)) != list.end();
}

std::size_t count_characters(const std::string& text) {
  return static_cast<std::size_t>(std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; }));
}

constexpr int kDeepest = 64;  // nested schemas beyond this are not written by anyone

std::string type_of(const Json& spec, int depth);

std::string array_type(const Json& spec, int depth) {
  const Json items = get(spec, "items");
  const std::string null = holds(get(spec, "nullable")) ? " | null" : "";
  if (!holds(items)) return "any[]" + null;
  const Json kind = get(items, "type");
  if (kind == "string") return "string[]" + null;
  if (kind == "number" || kind == "integer") return "number[]" + null;
  if (kind == "boolean") return "boolean[]" + null;
  const std::string inner = type_of(items, depth + 1);
  return (inner == "object | object" || count_characters(inner) > 50 ? "any[]" : inner + "[]") + null;
}

std::string union_type(const Json& variants, int depth) {
  const bool has_objects =
      std::any_of(variants.begin(), variants.end(), [](const Json& variant) { return get(variant, "type") == "object"; });
  if (has_objects && variants.size() > 1) return "any";
  std::string text;
  for (std::size_t i = 0; i < variants.size(); ++i) {
    const Json& variant = variants[i];
    text += type_of(variant, depth + 1);
    if (holds(get(variant, "description"))) text += "// " + string_of(get(variant, "description"), "a description");
    if (variant.contains("default")) text += std::string(20, ' ') + "// default: " + python_json(variant["default"]);
    if (i + 1 < variants.size()) text += " | \n";
  }
  return text;
}

std::string object_type(const Json& spec, int depth) {
  const Json properties = get(spec, "properties");
  if (!holds(properties)) return "object";
  std::string text = "{\n";
  std::size_t i = 0;
  for (const auto& [name, property] : properties.items()) {
    text += name + (contains(get(spec, "required"), name) ? "" : "?") + ": \n" + std::string(16, ' ') + type_of(property, depth + 1);
    if (++i < properties.size()) text += ", ";
  }
  return text + "}";
}

std::string type_of(const Json& spec, int depth) {
  if (depth > kDeepest) throw DataError("tools: a schema is nested more than 64 deep");
  const Json type = get(spec, "type");
  if (type == "array") return array_type(spec, depth);
  if (type.is_array() && !type.empty()) return joined(type, " | ");
  if (const Json variants = get(spec, "oneOf"); holds(variants)) return union_type(variants, depth);
  if (type == "string") {
    if (const Json values = get(spec, "enum"); holds(values)) return "\"" + joined(values, "\" | \"") + "\"";
    return holds(get(spec, "nullable")) ? "string | null" : "string";
  }
  if (type == "number" || type == "integer") return "number";
  if (type == "boolean") return "boolean";
  return type == "object" ? object_type(spec, depth) : "any";
}

std::string parameter(const std::string& name, const Json& spec, const Json& required) {
  std::string text;
  if (holds(get(spec, "description"))) text += "// " + string_of(get(spec, "description"), "a description") + "\n";
  text += name + (contains(required, name) ? "" : "?") + ": " + type_of(spec, 0);
  if (spec.is_object() && spec.contains("default")) {
    const Json& value = spec["default"];
    if (holds(get(spec, "enum"))) {
      text += ", // default: " + string_of(value, "the default of an enum");
    } else if (holds(get(spec, "oneOf"))) {
      text += "// default: " + string_of(value, "the default of a oneOf");
    } else {
      text += ", // default: " + python_json(value);
    }
  }
  return text + ",\n";
}

std::string function(const Json& tool) {
  const Json description = get(tool, "function");
  if (!description.is_object()) throw DataError("tools: an entry has no \"function\" object; expected OpenAI's {\"type\": \"function\", \"function\": {...}}");
  std::string text = "// " + string_of(get(description, "description"), "a function's description") + "\n";
  text += "type " + string_of(get(description, "name"), "a function's name") + " = ";
  const Json parameters = get(description, "parameters");
  const Json properties = get(parameters, "properties");
  if (!holds(properties)) return text + "() => any;\n\n";
  text += "(_: {\n";
  for (const auto& [name, spec] : properties.items()) text += parameter(name, spec, get(parameters, "required"));
  return text + "}) => any;\n\n";
}

}  // namespace

std::string render_tools(const std::string& tools) {
  const Json list = Json::parse(tools, nullptr, /*allow_exceptions=*/false);
  if (!list.is_array()) throw DataError("tools: not a JSON array");
  std::string text = "## functions\n\nnamespace functions {\n\n";
  for (const Json& tool : list) text += function(tool);
  return text + "} // namespace functions";
}

}  // namespace ossature
