// JSON files that come with weights: read strictly, whatever they hold.
#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <string>
#include <string_view>
#include <vector>

#include <nlohmann/json.hpp>

namespace ossature {

/// Keys of an object's member objects, in the order of the file, which nlohmann::json forgets.
using KeyOrder = std::map<std::string, std::vector<std::string>>;

/// Throws CheckpointError: "`where`: `found`; expected `expected``advice`".
[[noreturn]] void fail_json(const std::string& where, const std::string& found, const std::string& expected,
                            std::string_view advice);

/// `value` as JSON in ASCII, cut after 80 bytes: safe to show.
[[nodiscard]] std::string shown(const nlohmann::json& value);

/// The object that `file` holds. `order`, when given, receives the keys of its members. Throws CheckpointError, its
/// message ending in `advice`, if `file` is no readable regular file, is longer than `max_bytes`, is not one JSON
/// object, has a key twice, or nests deeper than 16.
[[nodiscard]] nlohmann::json read_json_object(const std::filesystem::path& file, std::uintmax_t max_bytes,
                                              std::string_view advice, KeyOrder* order = nullptr);

}  // namespace ossature
