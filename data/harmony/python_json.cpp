#include "data/harmony/python_json.h"

#include <array>
#include <charconv>

namespace ossature {
namespace {

/// repr(float): the shortest digits that read back to the same number; an exponent below 1e-4 and from 1e16 on.
std::string python_float(double value) {
  std::array<char, 64> text{};
  const auto end = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::scientific).ptr;
  std::string scientific(text.data(), end);
  const auto mark = scientific.find('e');
  const int exponent = std::stoi(scientific.substr(mark + 1));
  if (exponent >= -4 && exponent < 16) {
    const auto fixed = std::to_chars(text.data(), text.data() + text.size(), value, std::chars_format::fixed).ptr;
    std::string result(text.data(), fixed);
    return result.find('.') == std::string::npos ? result + ".0" : result;
  }
  return scientific;
}

}  // namespace

std::string python_json(const nlohmann::ordered_json& value) {
  std::string text;
  switch (value.type()) {
    case nlohmann::ordered_json::value_t::object:
      for (const auto& [key, part] : value.items()) {
        text += text.empty() ? "{" : ", ";
        text += nlohmann::ordered_json(key).dump() + ": " + python_json(part);
      }
      return text.empty() ? "{}" : text + "}";
    case nlohmann::ordered_json::value_t::array:
      for (const auto& part : value) {
        text += text.empty() ? "[" : ", ";
        text += python_json(part);
      }
      return text.empty() ? "[]" : text + "]";
    case nlohmann::ordered_json::value_t::number_float:
      return python_float(value.get<double>());
    default:
      return value.dump();
  }
}

}  // namespace ossature
