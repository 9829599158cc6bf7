#include "data/records/strict_json.h"

#include <algorithm>
#include <unordered_set>
#include <utility>
#include <vector>

namespace ossature {
namespace {

constexpr std::size_t kMaxDepth = 256;
constexpr std::size_t kMaxShownBytes = 40;

/// The front of a text, cut between characters.
std::string excerpt(std::string_view text) {
  if (text.size() <= kMaxShownBytes) return std::string(text);
  std::size_t size = kMaxShownBytes;
  while (size > 0 && (static_cast<unsigned char>(text[size]) & 0xc0) == 0x80) --size;
  return std::string(text.substr(0, size)) + "...";
}

/// Of the parser's "[json.exception...] parse error at line 1, column 7: syntax error while parsing value - invalid
/// literal; last read: 'tru}'" what a reader needs. The token read last may be as long as the file.
std::string reason_of(std::string what) {
  if (const auto head = what.find("] "); head != std::string::npos) what.erase(0, head + 2);
  if (const auto place = what.find(": "); what.starts_with("parse error") && place != std::string::npos) {
    what.erase(0, place + 2);
  }
  constexpr std::string_view kSyntax = "syntax error while parsing ";
  if (const auto dash = what.find(" - "); what.starts_with(kSyntax) && dash != std::string::npos) {
    what.erase(0, dash + 3);
  }
  constexpr std::string_view kLast = "; last read: '";
  if (const auto last = what.find(kLast); last != std::string::npos) {
    const std::size_t first = last + kLast.size();
    // The end is what went wrong.
    const std::size_t end = std::max(what.rfind('\''), first);
    if (end - first > kMaxShownBytes) {
      std::size_t cut = end - kMaxShownBytes;
      while (cut < end && (static_cast<unsigned char>(what[cut]) & 0xc0) == 0x80) ++cut;
      what.replace(first, cut - first, "...");
    }
  }
  return what;
}

/// Builds the value while the parser reads, and stops it where the strict rules are broken.
class Builder : public nlohmann::json_sax<Json> {
 public:
  bool null() override { return add(nullptr); }
  bool boolean(bool value) override { return add(value); }
  bool number_integer(number_integer_t value) override { return add(value); }
  bool number_unsigned(number_unsigned_t value) override { return add(value); }
  bool number_float(number_float_t value, const string_t& text) override {
    if (text.find_first_of(".eE") == std::string::npos) {
      return stop("the integer " + excerpt(text) + " needs more than 64 bits; write it as a string");
    }
    return add(value);
  }
  bool string(string_t& value) override { return add(std::move(value)); }
  bool binary(binary_t&) override { return stop("binary data"); }
  bool start_object(std::size_t) override { return open(Json::object()); }
  bool start_array(std::size_t) override { return open(Json::array()); }
  bool end_object() override { return close(); }
  bool end_array() override { return close(); }
  bool key(string_t& name) override {
    if (!open_.back().has_new_key(name)) {
      return stop("the key \"" + excerpt(name) + "\" stands twice in one object; expected each key once");
    }
    key_ = std::move(name);
    return true;
  }
  bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) override {
    position_ = position;
    what_ = reason_of(error.what());
    return false;
  }

  [[nodiscard]] Json take() { return std::move(root_); }
  [[nodiscard]] const std::string& what() const { return what_; }
  /// Behind the character that was not expected; 0 if the text is JSON but breaks a strict rule.
  [[nodiscard]] std::size_t position() const { return position_; }

 private:
  struct Open {
    Json* value;
    std::unordered_set<std::string> keys;  // of an object with many

    bool has_new_key(const std::string& name) {
      constexpr std::size_t kFew = 16;
      const auto& members = value->get_ref<const Json::object_t&>();
      if (members.size() < kFew) {
        return std::none_of(members.begin(), members.end(), [&](const auto& member) { return member.first == name; });
      }
      if (keys.empty()) {
        for (const auto& member : members) keys.insert(member.first);
      }
      return keys.insert(name).second;
    }
  };

  bool stop(std::string what) {
    what_ = std::move(what);
    return false;
  }
  Json* place(Json value) {
    if (open_.empty()) {
      root_ = std::move(value);
      return &root_;
    }
    Json& parent = *open_.back().value;
    if (parent.is_array()) return &parent.get_ref<Json::array_t&>().emplace_back(std::move(value));
    // Json's own insertion would search all keys again.
    return &parent.get_ref<Json::object_t&>().emplace_back(std::move(key_), std::move(value)).second;
  }
  template <class Value>
  bool add(Value&& value) {
    place(Json(std::forward<Value>(value)));
    return true;
  }
  bool open(Json value) {
    if (open_.size() == kMaxDepth) {
      return stop("more than " + std::to_string(kMaxDepth) + " lists and objects within each other");
    }
    open_.push_back({place(std::move(value)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  Json root_;
  std::vector<Open> open_;
  std::string key_, what_;
  std::size_t position_ = 0;
};

}  // namespace

Json parse_json(std::string_view text, std::int64_t line, std::int64_t column) {
  Builder builder;
  if (Json::sax_parse(text.begin(), text.end(), &builder)) return builder.take();
  if (builder.position() == 0) throw DataError(builder.what());
  const std::string_view before = text.substr(0, std::min(builder.position(), text.size() + 1) - 1);
  const auto newlines = std::count(before.begin(), before.end(), '\n');
  const std::string_view in_line = newlines == 0 ? before : before.substr(before.rfind('\n') + 1);
  const auto characters = std::count_if(in_line.begin(), in_line.end(),
                                        [](char c) { return (static_cast<unsigned char>(c) & 0xc0) != 0x80; });
  throw DataError("not JSON at " + (newlines == 0 ? "" : "line " + std::to_string(line + newlines) + ", ") + "column " +
                  std::to_string(characters + (newlines == 0 ? column : 1)) + ": " + builder.what());
}

std::string describe(const Json& value) {
  switch (value.type()) {
    case Json::value_t::object:
      return value.empty() ? "an empty object" : "an object with the keys " + keys_of(value);
    case Json::value_t::array:
      return value.empty() ? "an empty list" : "a list of " + std::to_string(value.size());
    case Json::value_t::string: {
      // Quotes and control characters as JSON shows them.
      return "the text " + Json(excerpt(value.get_ref<const std::string&>())).dump();
    }
    default:
      return value.dump();
  }
}

std::string keys_of(const Json& object) {
  constexpr std::size_t kMostKeys = 12;
  std::string keys;
  std::size_t count = 0;
  for (const auto& [key, value] : object.items()) {
    if (count++ == kMostKeys) return keys + ", ...";
    keys += (keys.empty() ? "" : ", ") + excerpt(key);
  }
  return keys.empty() ? "(none)" : keys;
}

}  // namespace ossature
