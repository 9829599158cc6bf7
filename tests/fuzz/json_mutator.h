// Makes libFuzzer change JSON as JSON half of the time, so that it gets beyond the parser: include it in one target.
#pragma once

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <nlohmann/json.hpp>
#include <random>
#include <string>
#include <vector>

extern "C" std::size_t LLVMFuzzerMutate(std::uint8_t* data, std::size_t size, std::size_t max_size);

namespace ossature::fuzz {

using Json = nlohmann::ordered_json;

inline void collect(Json& value, std::vector<Json*>& nodes) {
  nodes.push_back(&value);
  if (value.is_structured()) {
    for (auto& child : value) collect(child, nodes);
  }
}

inline std::string mutated_string(std::string text, std::mt19937& random) {
  const std::size_t size = text.size(), room = size + 16;
  text.resize(room);
  text.resize(LLVMFuzzerMutate(reinterpret_cast<std::uint8_t*>(text.data()), size, room));
  if (random() % 8 == 0) text = "<|channel|>" + text;
  return text;
}

inline Json odd_value(std::mt19937& random) {
  static const std::vector<Json> kOdd = {
      nullptr, true,  false, 0,     -1,    1e308,         5e-324,         INT64_MAX,      UINT64_MAX,    0.5,
      "",      "to=", " ",   "é日", "a\n", Json::array(), Json::object(), Json{{"a", 1}}, Json{nullptr}, "\x1b[31m"};
  return kOdd[random() % kOdd.size()];
}

/// One change somewhere in `root`.
inline void mutate(Json& root, std::mt19937& random) {
  std::vector<Json*> nodes;
  collect(root, nodes);
  Json& node = *nodes[random() % nodes.size()];
  const Json other = *nodes[random() % nodes.size()];
  switch (random() % 7) {
    case 0:
      node = odd_value(random);
      break;
    case 1:
      node = other;
      break;
    case 2:
      if (node.is_string()) node = mutated_string(node.get<std::string>(), random);
      break;
    case 3:
      if (node.is_array() && !node.empty()) node.erase(node.begin() + static_cast<int>(random() % node.size()));
      if (node.is_object() && !node.empty())
        node.erase(std::next(node.begin(), static_cast<int>(random() % node.size())).key());
      break;
    case 4:
      if (node.is_array()) node.insert(node.begin() + static_cast<int>(random() % (node.size() + 1)), other);
      break;
    case 5:
      if (node.is_object() && !node.empty()) {  // a value under another's key
        const std::string key = std::next(node.begin(), static_cast<int>(random() % node.size())).key();
        node[random() % 2 ? key : mutated_string(key, random)] = other;
      }
      break;
    default:
      if (node.is_number_integer()) node = node.get<std::int64_t>() / 2 + static_cast<std::int64_t>(random() % 7) - 3;
  }
}

}  // namespace ossature::fuzz

extern "C" std::size_t LLVMFuzzerCustomMutator(std::uint8_t* data, std::size_t size, std::size_t max_size,
                                               unsigned seed) {
  using namespace ossature::fuzz;
  std::mt19937 random(seed);
  if (random() % 2 == 0) return LLVMFuzzerMutate(data, size, max_size);
  Json root = Json::parse(data, data + size, nullptr, /*allow_exceptions=*/false);
  if (root.is_discarded()) return LLVMFuzzerMutate(data, size, max_size);
  for (unsigned changes = 1 + random() % 3; changes > 0; --changes) mutate(root, random);
  const std::string text = root.dump(-1, ' ', false, Json::error_handler_t::replace);
  if (text.size() > max_size) return LLVMFuzzerMutate(data, size, max_size);
  std::memcpy(data, text.data(), text.size());
  return text.size();
}
