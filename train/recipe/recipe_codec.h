// How the values of recipe keys are described, read from YAML and written: one Codec<T> for each type of member.
// Included by train/recipe/recipe_keys.cpp alone.
#pragma once

#include <algorithm>
#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <filesystem>
#include <limits>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <type_traits>
#include <utility>
#include <vector>

#include "train/recipe/recipe.h"
#include "train/recipe/recipe_yaml.h"

namespace ossature {

inline constexpr double kInfinity = std::numeric_limits<double>::infinity();

/// The values that a numeric key allows.
struct Range {
  double low = -kInfinity;
  bool low_included = true;
  double high = kInfinity;
  bool high_included = true;

  [[nodiscard]] bool holds(double value) const {
    return (low_included ? value >= low : value > low) && (high_included ? value <= high : value < high);
  }
};

constexpr Range at_least(double low) {
  return {low, true, kInfinity, true};
}
constexpr Range above(double low) {
  return {low, false, kInfinity, true};
}
constexpr Range between(double low, double high) {
  return {low, true, high, true};
}
constexpr Range below_one() {
  return {0, true, 1, false};
}

/// The shortest text that reads back to the same value. "2.0e-04", not "2e-04", which YAML 1.1 takes for a string.
inline std::string write_number(double value) {
  std::array<char, 32> buffer{};
  std::string text(buffer.data(), std::to_chars(buffer.data(), buffer.data() + buffer.size(), value).ptr);
  const std::size_t exponent = text.find('e');
  if (exponent != std::string::npos && text.find('.') == std::string::npos) text.insert(exponent, ".0");
  return text;
}

inline std::string describe_range(const Range& range) {
  std::string text;
  if (range.low != -kInfinity) text += (range.low_included ? " >= " : " > ") + write_number(range.low);
  if (range.high != kInfinity)
    text += (text.empty() ? "" : " and") + std::string(range.high_included ? " <= " : " < ") + write_number(range.high);
  return text;
}

constexpr std::array<std::pair<std::string_view, Device>, 3> names_of(Device /*unused*/) {
  return {{{"auto", Device::kAuto}, {"cpu", Device::kCpu}, {"cuda", Device::kCuda}}};
}
constexpr std::array<std::pair<std::string_view, ComputeDtype>, 2> names_of(ComputeDtype /*unused*/) {
  return {{{"bfloat16", ComputeDtype::kBFloat16}, {"float32", ComputeDtype::kFloat32}}};
}
constexpr std::array<std::pair<std::string_view, TrainMode>, 2> names_of(TrainMode /*unused*/) {
  return {{{"lora", TrainMode::kLora}, {"full", TrainMode::kFull}}};
}
constexpr std::array<std::pair<std::string_view, LrScheduler>, 3> names_of(LrScheduler /*unused*/) {
  return {{{"constant", LrScheduler::kConstant}, {"linear", LrScheduler::kLinear}, {"cosine", LrScheduler::kCosine}}};
}
constexpr std::array<std::pair<std::string_view, Recompute>, 3> names_of(Recompute /*unused*/) {
  return {{{"auto", Recompute::kAuto}, {"on", Recompute::kOn}, {"off", Recompute::kOff}}};
}
constexpr std::array<std::pair<std::string_view, OptimizerState>, 3> names_of(OptimizerState /*unused*/) {
  return {{{"float32", OptimizerState::kFloat32},
           {"bfloat16", OptimizerState::kBFloat16},
           {"8bit", OptimizerState::k8Bit}}};
}

/// How a value of type T is described, read and written. Enums here, other types below.
template <class T>
struct Codec {
  static_assert(std::is_enum_v<T>);
  static std::string expected(const Range& /*unused*/) {
    std::string text;
    for (const auto& [name, value] : names_of(T{})) text += (text.empty() ? "" : " | ") + std::string(name);
    return text;
  }
  static bool read(const YamlNode& node, const Range& /*unused*/, T& out) {
    for (const auto& [name, value] : names_of(T{})) {
      if (node.kind != YamlNode::Kind::kScalar || node.text != name) continue;
      out = value;
      return true;
    }
    return false;
  }
  static std::string write(T written) {
    std::string text;
    for (const auto& [name, value] : names_of(T{})) {
      if (value == written) text = name;
    }
    return text;
  }
};

/// Reads all of a plain scalar as a number.
template <class T>
bool read_number(const YamlNode& node, const Range& range, T& out) {
  if (node.kind != YamlNode::Kind::kScalar || node.quoted) return false;
  const char* begin = node.text.data();
  const char* end = begin + node.text.size();
  if (node.text.starts_with('+') && !node.text.starts_with("+-")) ++begin;
  T value{};
  const auto [stop, error] = std::from_chars(begin, end, value);
  if (error != std::errc() || stop != end) return false;
  if (!std::isfinite(static_cast<double>(value)) || !range.holds(static_cast<double>(value))) return false;
  out = value;
  return true;
}

template <>
struct Codec<std::int64_t> {
  static std::string expected(const Range& range) { return "an integer" + describe_range(range); }
  static bool read(const YamlNode& node, const Range& range, std::int64_t& out) {
    return read_number(node, range, out);
  }
  static std::string write(std::int64_t value) { return std::to_string(value); }
};

template <>
struct Codec<double> {
  static std::string expected(const Range& range) { return "a number" + describe_range(range); }
  static bool read(const YamlNode& node, const Range& range, double& out) { return read_number(node, range, out); }
  static std::string write(double value) { return write_number(value); }
};

template <>
struct Codec<bool> {
  static std::string expected(const Range& /*unused*/) { return "true | false"; }
  static bool read(const YamlNode& node, const Range& /*unused*/, bool& out) {
    if (node.kind != YamlNode::Kind::kScalar || node.quoted || (node.text != "true" && node.text != "false"))
      return false;
    out = node.text == "true";
    return true;
  }
  static std::string write(bool value) { return value ? "true" : "false"; }
};

template <>
struct Codec<std::string> {
  static std::string expected(const Range& /*unused*/) { return "a text"; }
  static bool read(const YamlNode& node, const Range& /*unused*/, std::string& out) {
    if (node.kind != YamlNode::Kind::kScalar || node.text.empty()) return false;
    out = node.text;
    return true;
  }
  static std::string write(const std::string& value) { return yaml_string(value); }
};

template <>
struct Codec<std::filesystem::path> {
  static std::string expected(const Range& /*unused*/) { return "a path"; }
  static bool read(const YamlNode& node, const Range& range, std::filesystem::path& out) {
    std::string text;
    if (!Codec<std::string>::read(node, range, text)) return false;
    out = text;
    return true;
  }
  static std::string write(const std::filesystem::path& value) { return yaml_string(value.string()); }
};

template <class T>
struct Codec<std::optional<T>> {
  static std::string expected(const Range& range) { return Codec<T>::expected(range) + ", or null"; }
  static bool read(const YamlNode& node, const Range& range, std::optional<T>& out) {
    if (node.kind == YamlNode::Kind::kNull) {
      out.reset();
      return true;
    }
    T value{};
    if (!Codec<T>::read(node, range, value)) return false;
    out = value;
    return true;
  }
  static std::string write(const std::optional<T>& value) { return value ? Codec<T>::write(*value) : "null"; }
};

template <class T>
struct Codec<std::vector<T>> {
  static std::string expected(const Range& range) { return "a list, each " + Codec<T>::expected(range); }
  static bool read(const YamlNode& node, const Range& range, std::vector<T>& out) {
    if (node.kind != YamlNode::Kind::kList) return false;
    std::vector<T> values(node.items.size());
    for (std::size_t i = 0; i < values.size(); ++i) {
      if (!Codec<T>::read(node.items[i], range, values[i])) return false;
    }
    out = std::move(values);
    return true;
  }
  /// The first item that cannot be read.
  static const YamlNode* culprit(const YamlNode& node, const Range& range) {
    for (const YamlNode& item : node.items) {
      T value{};
      if (!Codec<T>::read(item, range, value)) return &item;
    }
    return &node;
  }
  static std::string write(const std::vector<T>& values) {
    std::string text;
    for (const T& value : values) text += (text.empty() ? "" : ", ") + Codec<T>::write(value);
    return "[" + text + "]";
  }
};

/// A path, or a list of paths and maps {path: a.h5, weight: 2.0}. `range` is that of weights.
template <>
struct Codec<std::vector<TrainingFile>> {
  static std::string expected(const Range& range) {
    return "a path, or a list of paths and {path: a path, weight: " + Codec<double>::expected(range) + "}";
  }
  static bool read(const YamlNode& node, const Range& range, std::vector<TrainingFile>& out) {
    std::vector<TrainingFile> files;
    if (find_wrong(node, range, files) != nullptr) return false;
    out = std::move(files);
    return true;
  }
  /// The part of a value that cannot be read.
  static const YamlNode* culprit(const YamlNode& node, const Range& range) {
    std::vector<TrainingFile> unused;
    return find_wrong(node, range, unused);
  }
  static std::string write(const std::vector<TrainingFile>& files) {
    using PathCodec = Codec<std::filesystem::path>;
    if (files.size() == 1 && files.front().weight == 1.0) return PathCodec::write(files.front().path);
    std::string text;
    for (const TrainingFile& file : files) {
      const std::string path = PathCodec::write(file.path);
      text += text.empty() ? "" : ", ";
      text += file.weight == 1.0 ? path : "{path: " + path + ", weight: " + write_number(file.weight) + "}";
    }
    return "[" + text + "]";
  }

 private:
  /// Reads into `files`; nullptr if all is well.
  static const YamlNode* find_wrong(const YamlNode& node, const Range& range, std::vector<TrainingFile>& files) {
    if (node.kind == YamlNode::Kind::kScalar) {
      files.emplace_back();
      return Codec<std::filesystem::path>::read(node, {}, files.back().path) ? nullptr : &node;
    }
    if (node.kind != YamlNode::Kind::kList || node.items.empty()) return &node;
    for (const YamlNode& item : node.items) {
      const YamlNode* wrong =
          item.kind == YamlNode::Kind::kMap ? find_wrong_in_map(item, range, files) : find_wrong_in_item(item, files);
      if (wrong != nullptr) return wrong;
    }
    return nullptr;
  }
  static const YamlNode* find_wrong_in_item(const YamlNode& item, std::vector<TrainingFile>& files) {
    files.emplace_back();
    return Codec<std::filesystem::path>::read(item, {}, files.back().path) ? nullptr : &item;
  }
  static const YamlNode* find_wrong_in_map(const YamlNode& map, const Range& range, std::vector<TrainingFile>& files) {
    TrainingFile file;
    bool has_path = false, has_weight = false;
    for (const auto& [key, value] : map.entries) {
      if (key.kind == YamlNode::Kind::kScalar && key.text == "path" && !std::exchange(has_path, true)) {
        if (!Codec<std::filesystem::path>::read(value, {}, file.path)) return &value;
      } else if (key.kind == YamlNode::Kind::kScalar && key.text == "weight" && !std::exchange(has_weight, true)) {
        if (!Codec<double>::read(value, range, file.weight)) return &value;
      } else {
        return &key;
      }
    }
    files.push_back(std::move(file));
    return has_path ? nullptr : &map;
  }
};

template <class T>
struct Codec<std::map<std::string, T>> {
  static std::string expected(const Range& range) {
    return "a map from names, each value " + Codec<T>::expected(range);
  }
  static bool read(const YamlNode& node, const Range& range, std::map<std::string, T>& out) {
    if (node.kind != YamlNode::Kind::kMap) return false;
    std::map<std::string, T> values;
    for (const auto& [key, node_value] : node.entries) {
      std::string name;
      T value{};
      if (!Codec<std::string>::read(key, {}, name) || !Codec<T>::read(node_value, range, value)) return false;
      if (!values.emplace(name, value).second) return false;
    }
    out = std::move(values);
    return true;
  }
  /// The first name or value that cannot be read, or the name that is there a second time.
  static const YamlNode* culprit(const YamlNode& node, const Range& range) {
    std::map<std::string, T> values;
    for (const auto& [key, node_value] : node.entries) {
      std::string name;
      T value{};
      if (!Codec<std::string>::read(key, {}, name)) return &key;
      if (!Codec<T>::read(node_value, range, value)) return &node_value;
      if (!values.emplace(name, value).second) return &key;
    }
    return &node;
  }
  static std::string write(const std::map<std::string, T>& values) {
    std::string text;
    for (const auto& [name, value] : values)
      text += (text.empty() ? "" : ", ") + yaml_string(name) + ": " + Codec<T>::write(value);
    return "{" + text + "}";
  }
};

}  // namespace ossature
