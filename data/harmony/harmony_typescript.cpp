#include "data/harmony/harmony_typescript.h"

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <nlohmann/json.hpp>

#include "data/data_error.h"
#include "data/harmony/python_json.h"

namespace ossature {
namespace {

using Json = nlohmann::ordered_json;

/// The number that serde_json makes of what Python writes of `value`. It reads digits and exponent apart and rounds
/// twice, so it may miss `value` by one unit in the last place.
double serde_float(double value) {
  const std::string text = python_json(Json(std::abs(value)));
  std::uint64_t significand = 0;
  int exponent = 0;
  bool is_fraction = false;
  for (std::size_t i = 0; i < text.size(); ++i) {
    if (text[i] == 'e') {
      exponent += std::stoi(text.substr(i + 1));
      break;
    }
    if (text[i] == '.') {
      is_fraction = true;
      continue;
    }
    significand = significand * 10 + static_cast<std::uint64_t>(text[i] - '0');
    exponent -= is_fraction ? 1 : 0;
  }
  auto result = static_cast<double>(significand);
  if (exponent < -308) {
    result /= 1e308;
    exponent += 308;
  }
  const double power = std::strtod(("1e" + std::to_string(std::abs(exponent))).c_str(), nullptr);
  return std::copysign(exponent >= 0 ? result * power : result / power, value);
}

/// As Rust's crate ryu writes it: the shortest digits; an exponent below 1e-5 and from 1e16 on.
std::string rust_float(double value) {
  std::array<char, 400> text{};
  const auto write = [&](std::chars_format format) {
    return std::string(text.data(), std::to_chars(text.data(), text.data() + text.size(), value, format).ptr);
  };
  const std::string scientific = write(std::chars_format::scientific);  // "-1.5e+16"
  const auto mark = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(mark + 1));
  if (value != 0.0 && (exponent < -5 || exponent >= 16))
    return scientific.substr(0, mark) + "e" + std::to_string(exponent);
  const std::string fixed = write(std::chars_format::fixed);
  return fixed.find('.') == std::string::npos ? fixed + ".0" : fixed;
}

/// As serde_json displays a value: no white space.
std::string rust_json(const Json& value) {
  std::string text;
  switch (value.type()) {
    case Json::value_t::object:
      for (const auto& [key, part] : value.items()) {
        text += (text.empty() ? "{" : ",") + Json(key).dump() + ":" + rust_json(part);
      }
      return text.empty() ? "{}" : text + "}";
    case Json::value_t::array:
      for (const Json& part : value) text += (text.empty() ? "[" : ",") + rust_json(part);
      return text.empty() ? "[]" : text + "]";
    case Json::value_t::number_float:
      return rust_float(serde_float(value.get<double>()));
    default:
      return value.dump();
  }
}

/// The value of `key`; nullptr if `object` is no object or lacks it.
const Json* find(const Json& object, const char* key) {
  if (!object.is_object()) return nullptr;
  const auto found = object.find(key);
  return found == object.end() ? nullptr : &*found;
}

const std::string* find_text(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_string() ? &value->get_ref<const std::string&>() : nullptr;
}

const Json* find_list(const Json& object, const char* key) {
  const Json* value = find(object, key);
  return value != nullptr && value->is_array() ? value : nullptr;
}

/// "default: ..."; the text of an enumeration's default has no quotes, but in a variant of a variant.
std::string default_text(const Json& schema, bool quotes_enum = false) {
  const Json* value = find(schema, "default");
  if (value == nullptr) return "";
  if (!value->is_string()) return "default: " + rust_json(*value);
  const Json* values = find_list(schema, "enum");
  const auto& text = value->get_ref<const std::string&>();
  if (values == nullptr || values->empty()) return "default: \"" + text + "\"";
  return "default: " + (quotes_enum ? rust_json(*value) : text);
}

std::string joined(const std::vector<std::string>& parts, const std::string& separator) {
  std::string text;
  for (std::size_t i = 0; i < parts.size(); ++i) text += (i > 0 ? separator : "") + parts[i];
  return text;
}

/// As Rust's str::lines(): without "\n" or "\r\n", and without a last line that is empty.
std::vector<std::string> lines_of(const std::string& text) {
  std::vector<std::string> lines;
  for (std::size_t begin = 0; begin < text.size();) {
    const std::size_t end = text.find('\n', begin);
    std::string line = text.substr(begin, end == std::string::npos ? end : end - begin);
    if (end != std::string::npos && line.ends_with('\r')) line.pop_back();
    lines.push_back(std::move(line));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

/// Follows openai-harmony's json_schema_to_typescript, its oddities included.
class SchemaWriter {
 public:
  std::string type_of(const Json& schema, const std::string& indent) {
    constexpr int kDeepest = 64;
    if (++depth_ > kDeepest) {
      throw DataError("tools: a parameter's type is nested more than " + std::to_string(kDeepest) +
                      " times; make it flatter");
    }
    std::string text = type_at_any_depth(schema, indent);
    --depth_;
    return text;
  }

 private:
  std::string type_at_any_depth(const Json& schema, const std::string& indent) {
    if (const Json* variants = find_list(schema, "oneOf")) return variants_of(*variants, indent);
    if (const Json* types = find_list(schema, "type")) {
      std::vector<std::string> names;
      for (const Json& type : *types) {
        if (type.is_string()) names.push_back(type == "integer" ? "number" : type.get<std::string>());
      }
      if (!names.empty()) return joined(names, " | ");
    }
    const std::string* type = find_text(schema, "type");
    if (type == nullptr) return "any";
    if (*type == "object") return object_of(schema, indent);
    if (*type == "string") return string_of(schema);
    if (*type == "number" || *type == "integer") return "number";
    if (*type == "boolean") return "boolean";
    if (*type == "array") {
      const Json* items = find(schema, "items");
      return items != nullptr ? type_of(*items, indent) + "[]" : "Array<any>";
    }
    return "any";
  }

  std::string type_or_null(const Json& schema, const std::string& indent) {
    std::string text = type_of(schema, indent);
    const Json* nullable = find(schema, "nullable");
    const bool is_nullable = nullable != nullptr && nullable->is_boolean() && nullable->get<bool>();
    return is_nullable && text.find("null") == std::string::npos ? text + " | null" : text;
  }

  std::string variants_of(const Json& variants, const std::string& indent) {
    std::string text;
    for (const Json& variant : variants) {
      text += "\n" + indent + " | " + type_or_null(variant, indent + "   ");
      std::vector<std::string> comments;
      if (const std::string* description = find_text(variant, "description")) comments.push_back(*description);
      if (find(variant, "default") != nullptr) comments.push_back(default_text(variant, /*quotes_enum=*/true));
      if (!comments.empty()) text += " // " + joined(comments, " ");
    }
    return text;
  }

  static std::string string_of(const Json& schema) {
    std::vector<std::string> values;
    if (const Json* list = find_list(schema, "enum")) {
      for (const Json& value : *list) {
        if (value.is_string()) values.push_back("\"" + value.get<std::string>() + "\"");
      }
    }
    return values.empty() ? "string" : joined(values, " | ");
  }

  std::string object_of(const Json& schema, const std::string& indent) {
    std::string text;
    if (const std::string* description = find_text(schema, "description")) text += indent + "// " + *description + "\n";
    text += "{\n";
    const Json* properties = find(schema, "properties");
    if (properties != nullptr && properties->is_object()) {
      const Json* required = find_list(schema, "required");
      for (const auto& item : properties->items()) {
        const bool is_required =
            required != nullptr && std::find(required->begin(), required->end(), item.key()) != required->end();
        text += property_of(item.key() + (is_required ? "" : "?"), item.value(), indent);
      }
    }
    return text + indent + "}";
  }

  /// `name` is followed by "?" if the property may be left out.
  std::string property_of(const std::string& name, const Json& schema, const std::string& indent) {
    std::string text;
    const auto comment = [&](const std::string& line) {
      text += indent + "//" + (line.empty() ? "" : " ") + line + "\n";
    };
    if (const std::string* title = find_text(schema, "title")) text += indent + "// " + *title + "\n" + indent + "//\n";
    const std::string* description = find_text(schema, "description");
    const bool has_one_of = find(schema, "oneOf") != nullptr;
    if (description != nullptr && !has_one_of) text += indent + "// " + *description + "\n";
    if (const Json* examples = find_list(schema, "examples"); examples != nullptr && !examples->empty()) {
      comment("Examples:");
      for (const Json& example : *examples) {
        if (example.is_string()) comment("- \"" + example.get<std::string>() + "\"");
      }
    }
    if (const Json* variants = find_list(schema, "oneOf")) {
      return text + property_variants(name, schema, *variants, description, indent);
    }
    text += indent + name + ": " + type_or_null(schema, indent + "    ") + ",";
    if (!has_one_of && find(schema, "default") != nullptr) text += " // " + default_text(schema);
    return text + "\n";
  }

  std::string property_variants(const std::string& name, const Json& schema, const Json& variants,
                                const std::string* description, const std::string& indent) {
    const std::string* first = variants.empty() ? nullptr : find_text(variants.front(), "description");
    const bool is_described = description != nullptr && !(first != nullptr && *first == *description);
    std::string text;
    if (is_described) text += indent + "// " + *description + "\n";
    if (find(schema, "default") != nullptr) text += indent + "// " + default_text(schema) + "\n";
    text += indent + name + ":\n";
    for (std::size_t i = 0; i < variants.size(); ++i) {
      const Json& variant = variants[i];
      text += indent + " | " + type_or_null(variant, indent + "   ");
      std::vector<std::string> comments;
      const std::string* own = find_text(variant, "description");
      const bool is_said_above =
          (i == 0 && is_described) || (own != nullptr && description != nullptr && *own == *description);
      if (own != nullptr && !is_said_above) comments.push_back(*own);
      if (find(variant, "default") != nullptr) comments.push_back(default_text(variant));
      if (!comments.empty()) text += " // " + joined(comments, " ");
      text += "\n";
    }
    return text + indent + ",\n";
  }

  int depth_ = 0;
};

}  // namespace

std::string namespace_text(const ToolNamespace& tools) {
  std::vector<std::string> lines = {"## " + tools.name + "\n"};
  const std::string mark = tools.functions.empty() ? "" : "// ";
  for (const std::string& line : lines_of(tools.description.value_or(""))) lines.push_back(mark + line);
  if (tools.functions.empty()) return joined(lines, "\n");
  lines.push_back("namespace " + tools.name + " {\n");
  for (const FunctionDescription& function : tools.functions) {
    for (const std::string& line : lines_of(function.description)) lines.push_back("// " + line);
    std::string arguments;
    if (function.parameters) {
      arguments = "_: " + SchemaWriter().type_of(Json::parse(*function.parameters, nullptr, false), "");
    }
    lines.push_back("type " + function.name + " = (" + arguments + ") => any;\n");
  }
  lines.push_back("} // namespace " + tools.name);
  return joined(lines, "\n");
}

std::string tools_section(const ToolNamespaces& tools) {
  std::string text = "# Tools";
  for (const auto& [key, space] : tools) text += "\n\n" + namespace_text(space);
  return text;
}

}  // namespace ossature
