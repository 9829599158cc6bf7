#include "model/files/json_file.h"

#include <fstream>
#include <set>
#include <system_error>

#include "model/files/checkpoint_error.h"

namespace ossature {
namespace {

using nlohmann::json;

constexpr int kMaxDepth = 16;

std::string read_text(const std::filesystem::path& file, std::uintmax_t max_bytes, std::string_view advice) {
  const std::string where = file.string();
  std::error_code error;
  if (!std::filesystem::is_regular_file(file, error))
    fail_json(where, error ? "it cannot be read (" + error.message() + ")" : "it is not a regular file",
              "a " + file.filename().string(), advice);
  const std::uintmax_t bytes = std::filesystem::file_size(file, error);
  if (!error && bytes > max_bytes)
    fail_json(where, "it has " + std::to_string(bytes) + " bytes", "at most " + std::to_string(max_bytes), advice);
  std::string text(error ? 0 : static_cast<std::size_t>(bytes), '\0');
  std::ifstream in(file, std::ios::binary);
  if (!in.read(text.data(), static_cast<std::streamsize>(text.size())))
    fail_json(where, "it cannot be read", "a readable " + file.filename().string(), advice);
  return text;
}

}  // namespace

void fail_json(const std::string& where, const std::string& found, const std::string& expected,
               std::string_view advice) {
  throw CheckpointError(where + ": " + found + "; expected " + expected + std::string(advice));
}

std::string shown(const json& value) {
  const std::string text = value.dump(-1, ' ', true, json::error_handler_t::replace);
  return text.size() <= 80 ? text : text.substr(0, 80) + "...";
}

json read_json_object(const std::filesystem::path& file, std::uintmax_t max_bytes, std::string_view advice,
                      KeyOrder* order) {
  const std::string where = file.string();
  const std::string text = read_text(file, max_bytes, advice);
  std::vector<std::set<std::string>> keys(kMaxDepth + 2);
  std::string member;  // of the root, in which the parser is
  const auto check = [&](int depth, json::parse_event_t event, json& parsed) {
    if (depth > kMaxDepth)
      fail_json(where, "its values nest deeper than " + std::to_string(kMaxDepth), "a flat object", advice);
    const auto level = static_cast<std::size_t>(depth);
    if (event == json::parse_event_t::object_start) keys[level + 1].clear();
    if (event != json::parse_event_t::key) return true;
    const auto key = parsed.get<std::string>();
    if (!keys[level].insert(key).second)
      fail_json(where, "the key " + shown(parsed) + " stands in it twice", "every key once", advice);
    if (depth == 1) member = key;
    if (depth == 2 && order != nullptr) (*order)[member].push_back(key);
    return true;
  };
  try {
    json root = json::parse(text, check);
    if (!root.is_object()) fail_json(where, "it holds " + std::string(root.type_name()), "a JSON object", advice);
    return root;
  } catch (const json::parse_error& error) {
    fail_json(where, "it is not valid JSON near byte " + std::to_string(error.byte), "a JSON object", advice);
  } catch (const json::exception&) {
    fail_json(where, "it is not valid JSON (a number is out of range)", "a JSON object", advice);
  }
}

}  // namespace ossature
