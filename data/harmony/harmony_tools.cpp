#include "data/harmony/harmony_tools.h"

#include <algorithm>

#include "data/data_error.h"
#include "data/harmony/harmony_typescript.h"
#include "data/harmony/python_json.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

/// The value of `key`; nullptr if `object` is no object or lacks it.
const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

/// What the template takes as true: what is there and not null, false, 0, "" or empty.
bool is_truthy(const Json* value) {
  if (value == nullptr || value->is_null()) return false;
  if (value->is_boolean()) return value->get<bool>();
  if (value->is_number()) return value->get<double>() != 0.0;
  if (value->is_string()) return !value->get_ref<const std::string&>().empty();
  return !value->empty();
}

/// Python's str(value).
std::string python_text(const Json& value) {
  if (value.is_string()) return value.get<std::string>();
  if (value.is_null()) return "None";
  if (value.is_boolean()) return value.get<bool>() ? "True" : "False";
  return python_json(value);
}

std::int64_t count_characters(const std::string& text) {
  return std::count_if(text.begin(), text.end(), [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
}

/// Renders one array of functions; follows the macros of chat_template.jinja, their odd white space included.
class FunctionsRenderer {
 public:
  std::string render(const Json& tools) {
    if (!tools.is_array()) fail("not a list of functions");
    std::string text = "## functions\n\nnamespace functions {\n\n";
    for (const Json& tool : tools) {
      const Json* inner = find(tool, "function");
      text += render_function(inner != nullptr ? *inner : tool);
    }
    return text + "} // namespace functions";
  }

 private:
  [[noreturn]] void fail(const std::string& what) const {
    throw DataError("tools: " + what + "; the chat template cannot render it, correct it");
  }

  std::string string_of(const Json& object, const char* key, const std::string& owner) const {
    const Json* value = find(object, key);
    if (value == nullptr || !value->is_string()) fail(owner + " has no \"" + key + "\" that is text");
    return value->get<std::string>();
  }

  /// Whether `name` must be given, by the list under "required" of `schema`.
  bool is_required(const std::string& name, const Json& schema) const {
    const Json* required = find(schema, "required");
    if (!is_truthy(required)) return false;
    if (!required->is_array()) fail("\"required\" is no list of names");
    return std::find(required->begin(), required->end(), name) != required->end();
  }

  const Json& properties_of(const Json& schema) const {
    const Json& properties = *find(schema, "properties");
    if (!properties.is_object()) fail("\"properties\" is no object");
    return properties;
  }

  std::string render_function(const Json& tool) {
    const std::string name = string_of(tool, "name", "a function");
    std::string text = "// " + string_of(tool, "description", "function \"" + name + "\"") + "\ntype " + name + " = ";
    const Json* parameters = find(tool, "parameters");
    if (parameters == nullptr || !is_truthy(find(*parameters, "properties"))) return text + "() => any;\n\n";
    text += "(_: {\n";
    for (const auto& item : properties_of(*parameters).items()) {
      const Json& schema = item.value();
      if (is_truthy(find(schema, "description")))
        text += "// " + string_of(schema, "description", "a parameter") + "\n";
      text += item.key() + (is_required(item.key(), *parameters) ? "" : "?") + ": " + type_of(schema);
      if (const Json* value = find(schema, "default")) {
        const bool is_enum = is_truthy(find(schema, "enum"));
        if (is_enum || is_truthy(find(schema, "oneOf"))) {
          text += (is_enum ? ", // default: " : "// default: ") +
                  string_of(schema, "default", "parameter \"" + item.key() + "\"");
        } else {
          text += ", // default: " + python_json(*value);
        }
      }
      text += ",\n";
    }
    return text + "}) => any;\n\n";
  }

  std::string type_of(const Json& schema) {
    if (++depth_ > kDeepest) fail("a parameter's type is nested more than " + std::to_string(kDeepest) + " times");
    std::string text = type_of_unlimited(schema);
    --depth_;
    return text;
  }

  std::string type_of_unlimited(const Json& schema) {
    const Json* type = find(schema, "type");
    const std::string name = type != nullptr && type->is_string() ? type->get<std::string>() : "";
    const std::string nullable = is_truthy(find(schema, "nullable")) ? " | null" : "";
    if (name == "array") return element_of(find(schema, "items")) + "[]" + nullable;
    if (type != nullptr && type->is_array() && !type->empty()) return joined(*type, " | ");
    if (const Json* variants = find(schema, "oneOf"); is_truthy(variants)) return variants_of(*variants);
    if (name == "string") {
      const Json* values = find(schema, "enum");
      if (!is_truthy(values)) return "string" + nullable;
      if (!values->is_array()) fail("\"enum\" is no list");
      return "\"" + joined(*values, "\" | \"") + "\"";
    }
    if (name == "number" || name == "integer") return "number";
    if (name == "boolean") return "boolean";
    if (name == "object") return is_truthy(find(schema, "properties")) ? object_of(schema) : "object";
    return "any";
  }

  std::string element_of(const Json* items) {
    if (!is_truthy(items)) return "any";
    const std::string inner = type_of(*items);
    const Json* type = find(*items, "type");
    const bool is_plain =
        type != nullptr && (*type == "string" || *type == "number" || *type == "integer" || *type == "boolean");
    if (is_plain) return *type == "string" ? "string" : *type == "boolean" ? "boolean" : "number";
    constexpr std::int64_t kLongestInner = 50;  // characters; the template's
    return inner == "object | object" || count_characters(inner) > kLongestInner ? "any" : inner;
  }

  std::string variants_of(const Json& variants) {
    if (!variants.is_array()) fail("\"oneOf\" is no list");
    std::string text;
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const Json& variant = variants[i];
      text += type_of(variant);
      if (is_truthy(find(variant, "description"))) text += "// " + string_of(variant, "description", "a variant");
      if (const Json* value = find(variant, "default"))
        text += std::string(20, ' ') + "// default: " + python_json(*value);
      if (i + 1 < variants.size()) text += " | \n";
    }
    return text;
  }

  std::string object_of(const Json& schema) {
    std::string text = "{\n";
    bool first = true;
    for (const auto& item : properties_of(schema).items()) {
      if (!first) text += ", ";
      first = false;
      text += item.key() + (is_required(item.key(), schema) ? "" : "?") + ": \n" + std::string(16, ' ') +
              type_of(item.value());
    }
    return text + "}";
  }

  static std::string joined(const Json& values, const std::string& separator) {
    std::string text;
    for (std::size_t i = 0; i < values.size(); ++i) text += (i > 0 ? separator : "") + python_text(values[i]);
    return text;
  }

  static constexpr int kDeepest = 64;
  int depth_ = 0;
};

}  // namespace

std::string render_tools(const std::string& tools) {
  const Json list = Json::parse(tools, nullptr, /*allow_exceptions=*/false);
  return FunctionsRenderer().render(list);
}

std::string render_builtin_tools(const std::vector<std::string>& names) {
  const auto has = [&](const std::string& name) { return std::find(names.begin(), names.end(), name) != names.end(); };
  std::string text;
  for (const ToolNamespace* tool : {&browser_tool(), &python_tool()}) {
    if (has(tool->name)) text += namespace_text(*tool) + "\n\n";
  }
  return text;
}

}  // namespace ossature
