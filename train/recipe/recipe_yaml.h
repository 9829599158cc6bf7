// YAML text as a tree that keeps what a recipe reader needs and a YAML library forgets: where each value stands,
// whether it was quoted, and keys given twice.
#pragma once

#include <string>
#include <vector>

namespace ossature {

/// A value of a YAML document. Aliases (`*name`) are replaced by what they stand for.
struct YamlNode {
  enum class Kind { kNull, kScalar, kList, kMap };
  struct Entry;

  Kind kind = Kind::kNull;
  std::string text;             // kScalar
  bool quoted = false;          // kScalar: a string, whatever it looks like
  std::vector<YamlNode> items;  // kList
  std::vector<Entry> entries;   // kMap, in the order of the file, repeated keys included
  int line = 1;                 // from 1
  int column = 1;               // from 1
};

struct YamlNode::Entry {
  YamlNode key;
  YamlNode value;
};

/// Thrown by parse_yaml.
struct YamlSyntaxError {
  int line = 1;
  int column = 1;
  std::string what;
};

/// The one document of `text`; a null node if there is none. Throws YamlSyntaxError if `text` is not YAML, holds
/// several documents, or nests or repeats (through aliases) beyond what any recipe does.
[[nodiscard]] YamlNode parse_yaml(const std::string& text);

/// `text` as a YAML string: plain where that is safe, else double-quoted. parse_yaml gives it back.
[[nodiscard]] std::string yaml_string(const std::string& text);

}  // namespace ossature
