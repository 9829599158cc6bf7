#include "train/recipe/recipe_yaml.h"

#include <yaml-cpp/yaml.h>

#include <algorithm>
#include <array>
#include <cctype>
#include <sstream>
#include <string_view>

namespace ossature {
namespace {

constexpr int kMaxDepth = 8;        // a recipe needs 3
constexpr int kMaxNodes = 100'000;  // bounds what aliases of aliases expand to

/// A comment after the text. yaml-cpp takes the end of the text for the end of a quote that is not closed; then this is
/// in it.
constexpr std::string_view kEnd = "# end of the recipe 5f1c7b0e";

class Converter {
 public:
  YamlNode convert(const YAML::Node& node, int depth) {
    YamlNode result;
    result.line = node.Mark().line + 1;
    result.column = node.Mark().column + 1;
    if (depth > kMaxDepth || ++num_nodes_ > kMaxNodes)
      throw YamlSyntaxError{result.line, result.column,
                            "values nest too deep or repeat too often; expected sections with keys and nothing deeper"};
    switch (node.Type()) {
      case YAML::NodeType::Undefined:
      case YAML::NodeType::Null:
        break;
      case YAML::NodeType::Scalar:
        result.kind = YamlNode::Kind::kScalar;
        result.text = node.Scalar();
        if (result.text.find(kEnd) != std::string::npos)
          throw YamlSyntaxError{result.line, result.column,
                                "a quote begins here and is not closed; expected the same quote at the value's end"};
        result.quoted = node.Tag() == "!";  // yaml-cpp's mark of a quoted or block scalar; a plain one has "?"
        break;
      case YAML::NodeType::Sequence:
        result.kind = YamlNode::Kind::kList;
        for (const auto& item : node) result.items.push_back(convert(item, depth + 1));
        break;
      case YAML::NodeType::Map:
        result.kind = YamlNode::Kind::kMap;
        for (const auto& entry : node)
          result.entries.push_back({convert(entry.first, depth + 1), convert(entry.second, depth + 1)});
        break;
    }
    return result;
  }

 private:
  int num_nodes_ = 0;
};

bool is_plain(const std::string& text) {
  static constexpr std::array<std::string_view, 10> kWords = {"null", "true", "false", "yes", "no",
                                                              "on",   "off",  "y",     "n",   ""};
  std::string lower = text;
  std::transform(lower.begin(), lower.end(), lower.begin(), [](unsigned char c) { return std::tolower(c); });
  if (std::find(kWords.begin(), kWords.end(), lower) != kWords.end()) return false;
  const auto is_safe = [](unsigned char c) {
    return (c < 0x80 && std::isalnum(c) != 0) || c == '_' || c == '/' || c == '.' || c == '-';
  };
  const auto first = static_cast<unsigned char>(text.front());
  return std::all_of(text.begin(), text.end(), is_safe) && (std::isalpha(first) != 0 || first == '/' || first == '_');
}

/// What to do about text that the YAML library refuses in the 1-based `line`.
std::string way_out(const std::string& text, int line) {
  std::istringstream lines(text);
  std::string found;
  for (int i = 0; i < line && std::getline(lines, found); ++i) {
  }
  const std::size_t first = found.find_first_not_of(" \t");
  if (found.substr(0, first).find('\t') != std::string::npos) return "; the line begins with a tab: use spaces";
  return "; expected lines of `key: value` that are indented by spaces, alike within a section";
}

}  // namespace

YamlNode parse_yaml(const std::string& text) {
  if (const std::size_t nul = text.find('\0'); nul != std::string::npos) {
    const int line =
        1 + static_cast<int>(std::count(text.begin(), text.begin() + static_cast<std::ptrdiff_t>(nul), '\n'));
    throw YamlSyntaxError{line, 1, "a zero byte; expected YAML text"};
  }
  try {
    const std::vector<YAML::Node> documents = YAML::LoadAll(text + '\n' + std::string(kEnd) + '\n');
    if (documents.empty()) return {};
    if (documents.size() > 1) {
      const YAML::Mark mark = documents[1].Mark();
      throw YamlSyntaxError{mark.line + 1, mark.column + 1, "a second document; a recipe is one"};
    }
    return Converter().convert(documents.front(), 0);
  } catch (const YAML::Exception& error) {
    const int last = 1 + static_cast<int>(std::count(text.begin(), text.end(), '\n'));
    const int line = std::clamp(error.mark.line + 1, 1, last);
    const int column = error.mark.line + 1 > last ? 1 : std::max(error.mark.column + 1, 1);
    throw YamlSyntaxError{line, column, error.msg + way_out(text, line)};
  }
}

std::string yaml_string(const std::string& text) {
  if (is_plain(text)) return text;
  std::string quoted = "\"";
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    if (c == '"' || c == '\\') {
      quoted += '\\';
      quoted += c;
    } else if (byte < 0x20 || byte == 0x7f) {
      constexpr std::string_view kHex = "0123456789abcdef";
      quoted += "\\x";
      quoted += kHex[byte >> 4];
      quoted += kHex[byte & 15];
    } else {
      quoted += c;
    }
  }
  return quoted + '"';
}

}  // namespace ossature
